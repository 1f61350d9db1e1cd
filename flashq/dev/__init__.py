"""`flashq run`: a project's endpoints served on this machine while they are written.

A process of its own imports the project's files and registers what they define (`live`); this one serves the gateway,
has that process run again whenever a file is saved (`server`), and never imports what is the user's.
"""
