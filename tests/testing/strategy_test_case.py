"""What holds for every way of tuning. A new strategy subclasses :class:`StrategyTestCase`."""

import dataclasses
import itertools

import numpy as np

from medxfer import training, tuning
from tests.testing import tiny


class StrategyTestCase:
    """Runs the stages of ``tune`` on a tiny network, one epoch each.

    Attributes
    ----------
    tune : str
        What ``--tune`` is given. The network's groups are conv1, conv2, fc3 and fc4.
    new : tuple of str
        Groups without pre-trained weights.
    all_move : bool
        Whether every tensor of a group that is not frozen moves in every epoch.
    """

    tune: str
    new: tuple[str, ...] = ()
    all_move: bool = True

    def stages(self):
        return tuning.stages_for(self.tune, list(tiny.TABLE), tiny.config(), self.new)

    def test_stages_cover_every_group(self):
        stages = self.stages()
        assert stages
        for stage in stages:
            stage.check(tiny.TABLE)

    def test_rates_in_the_optimizer_are_those_of_the_stage(self):
        model = tiny.build()
        groups = tiny.groups(model)
        for stage in self.stages():
            tuning.freeze(groups, stage)
            optimizer = tuning.for_stage(groups, stage, momentum=0.9, weight_decay=0.1)
            assert set(optimizer.multipliers) == {v.path for v in model.trainable_variables}
            decay = 0.1 if stage.weight_decay is None else stage.weight_decay
            held = stage.penalty.groups if stage.penalty else ()
            for path, multiplier in optimizer.multipliers.items():
                group, kind = path.split("/")
                factor = stage.bias_multiplier if kind == "bias" else 1
                assert multiplier == stage.multipliers[group] * factor
                pull = group in held and kind == "kernel"
                assert (path in optimizer.pulls) == pull
                expected = decay if kind == "kernel" and not pull else 0
                assert optimizer.decays.get(path, 0) == expected

    def test_exactly_what_a_stage_names_moves(self, tmp_path):
        stages = [dataclasses.replace(stage, epochs=1) for stage in self.stages()]
        model = tiny.build()
        groups = tiny.groups(model)

        def weights():
            return {
                group: [w.numpy() for layer in layers for w in layer.weights]
                for group, layers in groups.items()
            }

        seen, order = [weights()], []

        def note(epoch):
            seen.append(weights())
            order.append(epoch.stage)

        train, validation = tiny.pipelines(24)
        training.fit(
            model, groups, stages, train, validation,
            monitor=tiny.monitor, config=tiny.config(), run_dir=tmp_path, on_epoch_end=note,
        )  # fmt: skip
        assert order == [stage.name for stage in stages]
        for stage, (before, after) in zip(stages, itertools.pairwise(seen), strict=True):
            for group in groups:
                for a, b in zip(before[group], after[group], strict=True):
                    if stage.frozen(group):
                        np.testing.assert_array_equal(a, b, err_msg=f"{group} in {stage.name}")
                    elif self.all_move:
                        assert not np.array_equal(a, b), f"{group} in {stage.name}"
