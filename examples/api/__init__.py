"""A small web service as it should be run: pools, a deadline for each request, and an end that no client notices.

``make example-api`` from the root of the repository starts two instances over PostgreSQL and Redis, restarts one after
the other under load, and counts what the clients saw. ``docs/example-api.md`` says what to copy, and why.

    service.py      the process: uvicorn in the hands of ``loopwright.run``; what happens at SIGTERM, step by step
    app.py          the application: pools through its lifespan, a background refresher, the routes
    deadline.py     middleware: a deadline for each request, and which trouble is 503 and which 504
    draining.py     middleware: /healthz, /readyz, and how the instance takes its leave
    stats.py        /stats: JSON, and a page for people
    load.py         the load: a balancer's view of the instances, a fixed rate, a table
    demo.py         the rehearsal that ``make example-api`` runs
"""
