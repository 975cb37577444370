"""The review page: what waits for a decision, looked at and decided on in a browser.

`apps` puts it into MLflow's own server. The page knows no permissions: whatever it shows or
records it asks MLflow for, in the name of whoever asked (`asking`).
"""
