"""Applications: one file each, found by its name.

An app is a module with

``CLASSES``, ``UNIT``
    Names of the classes (index 0 is background) and of the thing that is scored.
``prepared_phantom(cache)``
    Folder of records of the app's synthetic studies: the data where none are given.
``monitor(probabilities, labels)``
    Validation score of an epoch, higher is better.
``cnn(maps)``, ``handcrafted()``
    Scorers: the CNN's and its classic counterpart's, behind one contract.
``score(folder, split, scorer, progress)``
    One result per unit.
``metrics(results)``, ``compare(methods)``
    Name -> interval; measure -> paired comparisons of every two methods.
``rows(results)``
    What ``predictions.csv`` holds: one dictionary per unit.
``figures(methods, history)``
    Name -> (matplotlib figure, caption).
``raw_images(source)``, ``predict(path, scorer, settings, ...)``, ``describe(found)``
    Raw files to results where there is no annotation, and one result in words.
"""
