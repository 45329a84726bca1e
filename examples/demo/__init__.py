"""The demo: `make demo`, or `python -m examples.demo`.

Reading order: `app.py` (what each button of the page does, in a line or two of session code), `live.py` (the
stream of events), `__main__.py` (key, server). The page is `page.html`, `page.css` and `page.js`.
"""
