"""What `ray submit cluster.yaml train.py -- configs/...` ships; the package itself is installed on the hosts."""

from rechub_ray.cli import shim

if __name__ == "__main__":
    shim()
