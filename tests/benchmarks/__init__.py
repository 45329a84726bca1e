"""How much CPU time a session costs per request, ours and others', side by side in one process.

Reading order: `traffic` (a browser's requests, and how an app is called), `apps` (the handlers, and the
session middlewares around them), `naive` (a SQLite middleware as one writes it in an hour), `checks` (each
app must do what it claims before it is measured), `measure` (interleaved rounds, and what they say), `micro`
(single steps), `report` (the tables), `__main__` (the command).

Flask: `wsgi_traffic` (the same requests for a WSGI app), `flask_apps` (the app, and the sessions it may
have), `redis_server`, then `load` (the process that sends), `flask_served` and
`under_gunicorn`, `flask_report`.

Many sessions: `scale` (what is measured, of any backend), `scale_memory`, `scale_sqlite` with `scale_writer`
(the other process), `scale_report`.
"""
