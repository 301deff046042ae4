"""Torch-RecHub's module paths on top of rechub_ray: a script works after changing its imports.

`from torch_rechub.models.ranking import DeepFM` becomes `from rechub_ray.compat.models.ranking import DeepFM`.
docs/migration.md lists what is there and what differs.
"""

from rechub_ray.compat.missing import refuse_modules

refuse_modules()
