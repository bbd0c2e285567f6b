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
``metrics(results)``, ``compare(cnn, handcrafted)``
    Name -> interval; name -> paired comparison.
``rows(results)``
    What ``predictions.csv`` holds: one dictionary per unit.
``figures(results, history)``
    Name -> matplotlib figure.
``predict(...)``
    Raw files to results for people without annotation.
"""
