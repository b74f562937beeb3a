"""Instance maps: made once per case, kept on disk, carried through nnU-Net's augmentation to the loss."""
