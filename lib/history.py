"""What follows from the finished epochs of a training: best epoch, learning rate, early end.

All of it is computed from the history that the weights file carries, and nothing is counted beside
it, so that a resumed training decides as an undisturbed one. A history is a list of dictionaries,
one an epoch, with epoch, loss, and the metrics as Keras names them (val_loss, val_mean_iou).
"""

import math

# Metrics that are better when lower; all others are better when higher.
_LOWER_IS_BETTER = ("loss", "cross_entropy")


def lower_is_better(metric):
    """Tells whether a metric is better when lower; val_ in front of it says nothing of that."""
    return metric.removeprefix("val_") in _LOWER_IS_BETTER


def is_better(metric, value, than):
    """Tells whether a value of a metric is better than another; one that is no number never is."""
    return value < than if lower_is_better(metric) else value > than


def best_value(history, metric):
    """Gives the best value of a metric; the worst there is (inf or -inf) where no epoch has it."""
    row = best_epoch(history, metric)
    return row[metric] if row else math.inf if lower_is_better(metric) else -math.inf


def best_epoch(history, metric):
    """Gives the first epoch with the best value of a metric; None where no epoch has it."""
    best = None
    for row in history:
        value = row.get(metric, math.nan)
        if best is None:
            best = None if math.isnan(value) else row
        elif is_better(metric, value, best[metric]):
            best = row
    return best


def watched_metric(history, best_by):
    """Gives what plateau and early end watch: best_by; the training loss where nothing validates.

    Args:
        history: the finished epochs.
        best_by: name of the metric that chooses the best weights.
    """
    return best_by if any(best_by in row for row in history) else "loss"


def plateau_rate(history, rate, *, best_by, factor, patience):
    """Computes the learning rate of the next epoch: lower after each plateau.

    Keras's ReduceLROnPlateau (min_delta=0, cooldown=0) with what it counts taken from the history:
    whenever the metric has not improved for `patience` epochs, the rate is multiplied by `factor`
    and the count starts anew.

    Args:
        history: the finished epochs.
        rate: learning rate of the first epoch.
        best_by: name of the metric that is watched (see watched_metric).
        factor: in (0, 1).
        patience: epochs without improvement, >= 1.
    Returns:
        the learning rate.
    """
    metric = watched_metric(history, best_by)
    waited, best = 0, best_value([], metric)
    for row in history:
        value = row.get(metric, math.nan)
        if is_better(metric, value, best):
            best, waited = value, 0
        else:
            waited += 1
        if waited == patience:
            rate, waited = rate * factor, 0
    return rate


def is_complete(history, settings):
    """Tells whether a training is done: all epochs, or early_stopping epochs without improvement.

    Args:
        history: the finished epochs.
        settings: with N_epochs, early_stopping (0 for never) and best_by.
    """
    return len(history) >= settings.N_epochs or has_stopped_early(history, settings)


def has_stopped_early(history, settings):
    """Tells whether early_stopping ended a training; arguments as in is_complete."""
    best = best_epoch(history, watched_metric(history, settings.best_by))
    if not settings.early_stopping or best is None:
        return False
    return len(history) - (history.index(best) + 1) >= settings.early_stopping
