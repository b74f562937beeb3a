"""A study in one command: arms, seeds and folds trained, scored and compared as a Snakemake workflow.

``study_file`` reads STUDY.yaml, ``job_plan`` lists the jobs, ``workflow`` runs them, ``jobs`` is what each runs, and
``collected`` to ``study_page`` make the result folder.
"""
