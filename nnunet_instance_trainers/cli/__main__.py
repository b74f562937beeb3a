from nnunet_instance_trainers.cli import main

main()
