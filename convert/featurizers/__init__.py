"""The networks that edgewright knows how to build: featurizers, heads for them, and what an image needs before it enters.

    networks.py      the table: name, published size, preprocessing; `build_network` makes one
    weights.py       weights from a file, or random ones from a seed
    heads.py         put any Keras head on a featurizer; fine-tune the head or everything
    saving.py        one `.keras` file that also carries preprocessing and the place of the head
    ssd_boxes.py     the default boxes of SSD, decoding and non-maximum suppression, in NumPy for the host

Keras is imported inside functions: listing the networks costs no framework.
"""
