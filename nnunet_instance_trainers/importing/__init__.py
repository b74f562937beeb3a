"""Other people's labels as raw datasets of nnU-Net, with a map of instances beside each label."""
