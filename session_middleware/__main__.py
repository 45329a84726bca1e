"""`python -m session_middleware` is the command `session-middleware`."""

from session_middleware.cli import main

if __name__ == "__main__":
    main()
