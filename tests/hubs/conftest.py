"""What runs only when asked for: the real clients take minutes. ECHO_TEST_ALL=1 runs them too."""

import os

collect_ignore = (
    []
    if os.environ.get("ECHO_TEST_ALL")
    else ["test_javascript_client.py", "test_python_clients.py", "test_chromium.py"]
)
