"""Configs of the time when MetaTune was a module around another."""


def how_to_convert(message: str) -> str:
    """Return the sentence for a config whose ``model`` is ``MetaTune``, and "" for any other.

    Args:
        message: What the parser says is wrong with the config.

    Example:
        >>> how_to_convert('Parser key "model": Expected a dot import path string: Segmentor')
        ''
    """
    if 'key "model"' not in message.partition("\n")[0] or "MetaTune" not in message:
        return ""
    return (
        "`MetaTune` is a callback and no longer a `model`: write what stood in its `module` as `model`, its other"
        " arguments as `trainer.callbacks: [{class_path: MetaTune, init_args: {strategy: …}}]`, and `after: 1` among"
        " them in place of `strategy: null` in the first experience."
    )
