"""Offline: from labelled images to a bundle that a server opens.

In the order of the data:

==================  ==================================================================================================
``datasets/``       1. Labelled images: ``datasets`` opens CIFAR (``published``) or a folder (``folders``, ``walk``),
                    ``reading`` decodes them, ``left_out`` notes what gives no image, ``copies`` and ``looks`` find
                    one picture twice, ``fold`` lays what people taught over a dataset, ``derived`` makes one of
                    another.
``sources/``        2. A network to an encoder: ``from_network`` measures what any network takes, matches its classes,
                    reduces its keys and exports it; ``from_cifar`` does so for the CIFAR family, by PyTorch.
``embedding/``      3. Images to keys: ``encoders`` says what a source of encoders is, and takes one from a bundle;
                    ``entries`` embeds what is cached, ``queries`` what a cache is asked about. Keys and contact
                    ``sheets`` wait for their bundle on the disk (``spool``).
``new_entries``     4. What was embedded is checked, and becomes the entries of a bundle.
``store_builder``   5. Their keys get a store.
``fitting/``        6. What the cache answers with: ``honest_holdout`` chooses the images to fit on; ``cache`` fits it
                    all: theta, lam and k (``parameters``), the search (``approximation``), novelty (``novelty``,
                    by ``class_shape`` and ``unknown`` images), how near is the same picture (``nearest_other``), doubt
                    (``calibrate``). ``neighbors`` searches the holdout's nearest entries once for all of them;
                    ``added`` calibrates a served bundle with what it was taught.
``index``           The steps 1 to 6 in order, and the bundle written. ``refit`` does the last one anew for a bundle.
``sharding/``       The same on many machines: ``shards`` embeds parts, ``on_ray`` has a cluster do it, ``merge`` makes
                    one bundle of them.
``train, keras``    Networks: a CIFAR ResNet trained, or brought in from Keras.
``added_entries``   What was taught, written out and read in.
``memory``          Whether work fits, asked before it begins. ``progress`` says how far it is; ``results`` and
                    ``plots`` are figures as data, tables and pictures, for curation and evaluation.
==================  ==================================================================================================
"""
