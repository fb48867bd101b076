"""`python -m echo`."""

from echo.cli import main

main(prog_name="python -m echo")
