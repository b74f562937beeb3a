"""Write docs/settings.md from nnunet_instance_trainers/configuration/fields.py; a test holds both together.

python scripts/make_settings_page.py
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path

from nnunet_instance_trainers.configuration import Settings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"

HEAD = """\
# Settings

<!-- made by scripts/make_settings_page.py from configuration/fields.py of the package: do not edit by hand -->

A setting is a class attribute of a trainer. The dictionary `instance_training` in a configuration of the plans file
overrides it; nnU-Net carries that dictionary into the results folder and the checkpoint. An unknown key or a bad value
stops the training before anything is written.

`nnunet-instance configure` writes a checked copy of the plans:

```bash
nnunet-instance configure -d 27 -c 3d_fullres -o nnUNetPlansSmall weights.blob=0.5 num_epochs=250
nnUNetv2_train 27 3d_fullres 0 -tr nnUNetTrainerBlob -p nnUNetPlansSmall
```

Preprocessed data and instance maps are shared by both plans. A configuration that inherits from another
(`inherits_from`) replaces the whole dictionary.

"""

TAIL = """
## A trainer of your own

```python
from nnunet_instance_trainers.trainers import nnUNetTrainerBlob


class nnUNetTrainerBlobUnit(nnUNetTrainerBlob):
    scale = "unit"
    criterion = "dice+bce"
```

Put the file into a folder of its own and add that folder to `nnUNet_extTrainer`, after this package's.

## Weights under nnU-Net's optimiser

nnU-Net trains with SGD and clips gradients at 12, so the scale of a loss is a step size. The published blob loss,
2 x pixel + 1 x blob, doubles the step of the pixel part; `scale = "unit"` gives 1 x pixel + 0.5 x blob instead, with
the same ratio. The papers trained with Adam or Ranger21, which do not see the scale.
"""


def page() -> str:
    """The text of docs/settings.md."""
    lines = [HEAD, "| setting | default | allowed | unit | meaning |\n", "|---|---|---|---|---|\n"]
    for setting in fields(Settings):
        factory = setting.default_factory
        default = json.dumps(setting.default if factory is MISSING else factory())
        cells = (setting.metadata["allowed"], setting.metadata["unit"], setting.metadata["meaning"])
        escaped = " | ".join(cell.replace("|", "\\|") for cell in cells)
        lines.append(f"| `{setting.name}` | `{default}` | {escaped} |\n")
    return "".join([*lines, TAIL])


if __name__ == "__main__":
    PAGE.write_text(page())
