"""Applications: one file each, found by its name.

An app is a module with

``CLASSES``, ``UNIT``, ``INPUT``
    Names of the classes (index 0 is background; None: those of the records), of the thing that is
    scored, and of one raw input (image, video, volume).
``prepared_phantom(cache)``
    Folder of records of the app's synthetic studies: the data where none are given.
``monitor(probabilities, labels)``
    Validation score of an epoch, higher is better.
``cnn(network)``, ``counterparts(folder, subjects)``
    Scorers behind one contract: of a :class:`medxfer.network.TrainedNetwork`, and name -> scorer of
    the classic methods beside it, which may learn from those subjects of the records.
``score(folder, split, scorer)``
    Results, one per unit.
``metrics(results)``, ``compare(methods)``
    Name -> interval; measure -> paired comparisons of every two methods.
``rows(results)``
    What ``predictions.csv`` holds: one dictionary per unit.
``restore(rows, truth)``
    Results again from rows of ``predictions.csv``, for pooling runs.
``figures(methods, history)``
    Name -> (matplotlib figure, caption).
``raw_inputs(source)``, ``predict(path, scorer, settings, name, output, options)``,
``describe(found)``
    Raw files to results where there is no annotation, and one result in words. ``settings`` are
    those of the records, and ``classes``.
``collect(paths, results, settings, output)``
    Where there is one: writes what is one for all raw files, and says it in words.
``LEARNT_BEFORE``
    Where there is one: what learnt from all training subjects when the records were prepared.
``study_measures(methods)``
    Where results are of no kind that :mod:`medxfer.studies.measures` knows.
"""
