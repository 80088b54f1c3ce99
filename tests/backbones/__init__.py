"""Tests of the networks; those of public weights are tested against the other side's features."""
# Made for small images, and pre-trained here.
SMALL = ('conv4', 'resnet12', 'resnet12_wide', 'resnet18_small', 'resnet25', 'wrn28_10')
