"""The networks that edgewright can build: featurizers, their heads, and the preprocessing of their images.

    networks.py         the table of networks, and `build_network`
    applications.py, resnet8.py, ssd_vgg.py    the layers of the networks
    preprocessing.py    preprocessing per network
    weights.py          weights from files
    heads.py            attach any Keras head to a featurizer; fine-tune the head or the whole network
    saving.py           save a network with preprocessing and head layers as one `.keras` file
    ssd_boxes.py        default boxes of SSD, decoding and non-maximum suppression, in NumPy

Functions import Keras when they need it, so listing the networks does not.
"""
