"""The optimisers: Keras's, with parts of the network that learn slower, and averaged weights.

Averaging is Keras's EMA: average = momentum * average + (1 - momentum) * weights after every step.
A training validates with the averages and saves them as the weights, which is what all readers of
weights files want; what it goes on from are the weights themselves.
"""

import contextlib

import keras
from keras import ops


def get_optimizer(settings, num_steps, slow_variables=(), slow_factor=1.0):
    """Builds the optimiser that the training settings ask for.

    Args:
        settings: with optimizer ("sgd", "adam" or "adamw"), learning_rate, learning_rate_decay
            ("none"; "cosine" from the learning rate to 0 over the training; "plateau", for which
            lib.callbacks sets the rate of each epoch), momentum (sgd only), weight_decay (adamw
            only; biases and normalisations do not decay) and weight_averaging (0 for none).
        num_steps: batches of the whole training.
        slow_variables: trainable variables whose learning rate is multiplied by slow_factor.
        slow_factor: > 0.
    Returns:
        keras.optimizers.Optimizer.
    """
    rate = settings.learning_rate
    if settings.learning_rate_decay == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, num_steps)
    options = {}
    if settings.optimizer == "sgd":
        options["momentum"] = settings.momentum
    if settings.optimizer == "adamw":
        options["weight_decay"] = settings.weight_decay
    plain, extended = _CLASSES[settings.optimizer]
    is_plain = slow_factor == 1 and not settings.weight_averaging
    if is_plain:
        optimizer = plain(rate, **options)
    else:
        if settings.weight_averaging:
            options |= {"use_ema": True, "ema_momentum": settings.weight_averaging}
        slow = [variable.path for variable in slow_variables]
        optimizer = extended(rate, slow_paths=slow, slow_factor=slow_factor, **options)
    if settings.optimizer == "adamw":
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


class _Extended:
    """What Keras's optimisers lack: slow variables, and averages that stay beside the weights.

    Args:
        slow_paths: paths of the variables whose learning rate is multiplied by slow_factor.
        slow_factor: > 0; it scales the decay of their weights too, as a learning rate does.
    """

    def __init__(self, *arguments, slow_paths=(), slow_factor=1.0, **options):
        super().__init__(*arguments, **options)
        self.slow_paths = tuple(slow_paths)
        self.slow_factor = float(slow_factor)

    def build(self, variables):
        super().build(variables)
        paths = [variable.path for variable in variables]
        unknown = set(self.slow_paths) - set(paths)
        if unknown or len(set(paths)) < len(paths):
            raise ValueError(
                "slow_paths must be paths of trainable variables, which must all differ. "
                f"Received: {sorted(unknown) or paths}"
            )
        self.factors = tuple(self.slow_factor if path in self.slow_paths else 1.0 for path in paths)

    def update_step(self, gradient, variable, learning_rate):
        factor = self.factors[self._get_variable_index(variable)]
        if factor != 1:
            learning_rate = ops.multiply(learning_rate, factor)
        super().update_step(gradient, variable, learning_rate)

    def _apply_weight_decay(self, variables):
        weight_decay = self.weight_decay
        if weight_decay is None:
            return
        for factor in sorted(set(self.factors)):
            self.weight_decay = weight_decay * factor
            chosen = [v for v in variables if self.factors[self._get_variable_index(v)] == factor]
            super()._apply_weight_decay(chosen)
        self.weight_decay = weight_decay

    def finalize_variable_values(self, var_list):
        """Leaves the weights as they are: Keras ends every fit by writing the averages over them.

        A resumed training fits twice, the epoch that was begun and the rest.
        """

    def get_config(self):
        extra = {"slow_paths": list(self.slow_paths), "slow_factor": self.slow_factor}
        return {**super().get_config(), **extra}


@keras.saving.register_keras_serializable(package="unet")
class ExtendedSGD(_Extended, keras.optimizers.SGD):
    """SGD with what _Extended adds."""


@keras.saving.register_keras_serializable(package="unet")
class ExtendedAdam(_Extended, keras.optimizers.Adam):
    """Adam with what _Extended adds."""


@keras.saving.register_keras_serializable(package="unet")
class ExtendedAdamW(_Extended, keras.optimizers.AdamW):
    """AdamW with what _Extended adds."""


# Keras's own class where it will do: on PyTorch it updates all variables at once.
_CLASSES = {
    "sgd": (keras.optimizers.SGD, ExtendedSGD),
    "adam": (keras.optimizers.Adam, ExtendedAdam),
    "adamw": (keras.optimizers.AdamW, ExtendedAdamW),
}


def swap_averages(model):
    """Exchanges the weights of a network and their averages; nothing where none are kept.

    The statistics of batch normalisation are no weights and stay what they are.

    Args:
        model: compiled keras.Model whose optimiser is built.
    """
    if not model.optimizer.use_ema:
        return
    averages = model.optimizer._model_variables_moving_average  # Keras has no public name for them
    for variable, average in zip(model.optimizer._trainable_variables, averages, strict=True):
        weights = ops.convert_to_numpy(variable)
        variable.assign(ops.convert_to_numpy(average))
        average.assign(weights)


@contextlib.contextmanager
def averages_as_weights(model):
    """Holds the averages in the place of the weights, for as long as they are saved."""
    swap_averages(model)
    try:
        yield
    finally:
        swap_averages(model)
