"""Where records live. Each backend is a module of its own; nothing is imported before it is asked for."""
