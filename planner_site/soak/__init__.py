"""The soak: real processes under load, killed, stopped and restarted, and a verdict on what became of every job.

`plan` says what happens when, `chaos` does it, `load` is the clients, `watch` looks on, `evidence` gathers what is
left at the end, and `verdict` judges it.
"""
