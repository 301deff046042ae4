"""What the README claims, measured: `python -m benchmarks [names] [--quick]`, or `make bench`.

A benchmark is a module of this package with two functions:

    run(settings: Settings) -> dict     measures; plain data
    table(result: dict) -> str          the same as Markdown

and its name in `__main__.BENCHMARKS`. The method of each is in README.md.
"""
