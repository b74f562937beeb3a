"""The commands in the shell blocks of the pages: which run as they stand, which by a test of their own, which not.

This is the one place that says so; ``test_page_commands.py`` compares it with the pages.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]

RUN_AS_THEY_STAND = {
    'export nnUNet_extTrainer="$(nnunet-instance path)"',
    "nnunet-instance compare EVAL_A EVAL_B EVAL_C -o OUT --pairs EVAL_B:EVAL_A EVAL_C:EVAL_A",
    "nnunet-instance ensemble --config FILE.json --predictions A=DIR B=DIR -o OUT",
    "nnunet-instance ensemble --member-mm2 A:0-50 --member-mm2 B:50- -o OUT",
    "nnunet-instance ensemble -m A/fold_* :0-0.05 -m PRED_B:0.05- -o OUT",
    "nnunet-instance ensemble -m PRED_A:0-0.05 -m PRED_B:0.05- -o OUT",
    "nnunet-instance evaluate -i OUT -g labelsTs -o scores/blob",
    "nnunet-instance evaluate -i PREDICTIONS -g labelsTs -o SCORES --instances instancesTs",
    "nnunet-instance objects -i PREDICTIONS -o OBJECTS",
    "nnunet-instance objects -i PREDICTIONS -o OBJECTS --reference EARLIER",
    "nnunet-instance evaluate -i PREDICTIONS -g labelsTs -o SCORES --overlays",
    "nnunet-instance report EVAL_A EVAL_B EVAL_C -o report.html --images nnUNet_raw/DatasetXXX/imagesTs",
    "nnunet-instance report scores/blob scores/baseline -o report.html --images imagesTs",
}

_TRAINING = "test_two_epochs_and_a_prediction_through_the_real_commands"
_RELEASE = "test_plain_nnunet_predicts_the_same_without_this_package"
_INSTALLATION = "test_an_installation_trains_and_evaluates_without_the_checkout"

# with a small dataset, and a schedule of seconds, of the test's own
RUN_BY_A_TEST_OF_THEIR_OWN = {
    "nnUNetv2_predict -i IMAGES -o OUT -d 27 -c 3d_fullres -f 0 -tr nnUNetTrainerBlob": _TRAINING,
    "nnUNetv2_predict_from_modelfolder -i IMAGES -o OUT"
    " -m RELEASED/Dataset027_Name/nnUNetTrainer__nnUNetPlans__3d_fullres -f 0 1 2 3 4": _RELEASE,
    "nnUNet_results=RELEASED nnUNetv2_predict -i IMAGES -o OUT -d 27 -c 3d_fullres": _RELEASE,
    "nnUNet_results=RELEASED nnUNetv2_export_model_to_zip -d 27 -c 3d_fullres -o model.zip": (
        "test_the_folder_has_what_nnunets_export_takes_and_names_no_case"
    ),
    "nnUNetv2_train 27 3d_fullres 0 -tr nnUNetTrainerBlob": _TRAINING,
    "nnUNetv2_train 27 3d_fullres 0 -tr nnUNetTrainerBlob -p nnUNetPlansSampled": (
        "test_centres_are_voxels_of_each_class_or_region_and_the_training_runs"
    ),
    "nnunet-instance configure -d 27 -c 3d_fullres -o nnUNetPlansBiCC25"
    " weights.voronoi_target=0.75 weights.voronoi_prediction=0.25": "test_configure_writes_a_copy_with_the_settings",
    "nnunet-instance configure -d 27 -c 3d_fullres -o nnUNetPlansGDF pixel_loss=generalized_dice+focal": (
        "test_configure_writes_a_copy_with_the_settings"
    ),
    "nnunet-instance configure -d 27 -c 3d_fullres -o nnUNetPlansSampled sampling=instance": (
        "test_configure_writes_a_copy_with_the_settings"
    ),
    "nnunet-instance configure -d 27 -c 3d_fullres -o nnUNetPlansSmall weights.blob=0.5 num_epochs=250": (
        "test_configure_writes_a_copy_with_the_settings"
    ),
    "nnunet-instance fit-ensemble -d 27 -c 3d_fullres -f 0 1 2 3 4"
    " --trainers nnUNetTrainer nnUNetTrainerBlob -o fit.json": "test_the_file_says_what_was_planted",
    "nnunet-instance check": "test_check_prints_a_line_each_and_ends_with_1_on_a_problem",
    "nnunet-instance check -d 27 -c 3d_fullres -tr nnUNetTrainerBlob": "test_check_names_what_is_not_there",
    "nnunet-instance import -i images -l masks --dry-run": "test_dry_run_is_a_table_and_writes_nothing",
    "nnunet-instance import -i images -l masks -o nnUNet_raw/Dataset123_Lesions": (
        "test_objects_are_the_same_afterwards"
    ),
    "nnunet-instance link": "test_the_link_does_too_and_goes_away_again",
    "nnUNetv2_plan_and_preprocess -d 123 --verify_dataset_integrity": "test_nnunet_takes_what_was_brought_in",
    "nnunet-instance precompute -d 123": "test_nnunet_takes_what_was_brought_in",
    "nnunet-instance precompute -d 27": _TRAINING,
    "nnunet-instance precompute -d 27 -c 3d_fullres": _TRAINING,
    "nnunet-instance release -d 27 -c 3d_fullres -tr nnUNetTrainerBlob -o RELEASED": _RELEASE,
    "nnunet-instance release -d 27 -c 3d_fullres -tr nnUNetTrainerBlob -f 0"
    " -chk checkpoint_best.pth -o RELEASED -i imagesTs": "test_another_checkpoint_replaces_an_earlier_release",
    "pip install .": _INSTALLATION,
    "pip install dist/nnunet_instance_trainers-*.whl": _INSTALLATION,
    "python -m build": _INSTALLATION,
}

_GPUS = "needs two GPUs; two processes on a CPU are tests/training/test_processes.py"
_DOCKER = "needs a docker daemon; what it runs is nnU-Net's own prediction, see test_release.py"
_VIEWER = "a program with windows; test_overlays.py holds that it can read the files"
_STUDY = "trains for minutes; tests/study/test_workflow.py runs a toy study, and test_study_file.py reads the example"
_OF_NNUNET = "training with other plans or another trainer is the same command; each trainer and setting has its tests"

NOT_RUN = {
    "docker build -t my-model .": _DOCKER,
    'docker run --rm --network none --gpus all --shm-size 4g -v "$PWD/imagesTs":/input:ro'
    ' -v "$PWD/out":/output my-model': _DOCKER,
    'docker run --rm --network none -v "$PWD/imagesTs":/input:ro -v "$PWD/out":/output my-model'
    " -device cpu -npp 1 -nps 1": _DOCKER,
    "itksnap -g imagesTs/case_1_0000.nii.gz -s SCORES/overlays/case_1.nii.gz"
    " -l SCORES/overlays/itksnap_labels.txt": _VIEWER,
    "itksnap -g imagesTs/case_1_0000.nii.gz -o imagesTs/case_1_0001.nii.gz -s instancesTs/case_1.nii.gz": _VIEWER,
    "make demo": "minutes long; run before a release, its figure is on the first page",
    "make docs": "a test inside 'make test' would build twice: 'make test' runs the same build",
    "make test": "runs the tests",
    "nnUNetv2_plan_and_preprocess -d 27 --verify_dataset_integrity": "nnU-Net's own; 'make demo' runs it",
    "nnUNetv2_train 27 3d_fullres 0 -tr nnUNetTrainerBlob -num_gpus 2": _GPUS,
    "nnUNetv2_train 27 3d_fullres 0 -tr nnUNetTrainerBlob -p nnUNetPlansSmall": _OF_NNUNET,
    "nnUNetv2_train 27 3d_fullres 0 -tr nnUNetTrainerBiCC -p nnUNetPlansBiCC25": _OF_NNUNET,
    "nnUNetv2_train 27 3d_fullres 0 -tr nnUNetTrainerICI -p nnUNetPlansGDF": _OF_NNUNET,
    "nnUNetv2_train 27 3d_fullres 0 -tr nnUNetTrainerInstanceBaseline": _OF_NNUNET,
    "nnunet-instance study --example": _STUDY,
    "nnunet-instance study study.yaml --dry-run": _STUDY,
    "nnunet-instance study study.yaml -j 8 --gpus 2": _STUDY,
    "nnunet-instance study study.yaml -j 50 --executor slurm": "needs SLURM; scripts/try_slurm.sh runs one",
    "nnunet-instance study study.yaml -j 50 --snakemake --profile cluster": "needs a cluster and its profile",
    "pip install 'nnunet-instance-trainers[study]'": "needs a package index",
    "pip install build": "needs a package index",
    "pip install snakemake-executor-plugin-slurm": "needs a package index",
}


def page_commands() -> dict[str, str]:
    """Each command in a shell block of a page, without its comment, and a page that has it."""
    found = {}
    for page in PAGES:
        for block in re.findall(r"^```(?:bash|sh|shell|console)\n(.*?)^```", page.read_text(), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if command := re.sub(r"(^|\s+)#.*", "", line).strip():
                    found[command] = page.name
    return found


def words(command: str, folder: Path) -> list[str]:
    """A command as a shell in a folder hands it over."""
    parts = shlex.split(command)
    return [name for part in parts for name in (sorted(map(str, folder.glob(part))) if "*" in part else [part])]
