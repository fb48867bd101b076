"""Echo: WebSockets on Trio. `hypercorn -k trio echo:app` serves the sample."""

from echo.application import create_app

app = create_app()
