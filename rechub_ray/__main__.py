"""`python -m rechub_ray`: the command line, where its script is not on the path."""

from rechub_ray.cli import entry

if __name__ == "__main__":
    entry()
