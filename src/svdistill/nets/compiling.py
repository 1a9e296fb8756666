"""`torch.compile` for networks that a step goes back through twice, once for each task."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import nn

TAG = "[svdistill: nothing donated]"
F = TypeVar("F", bound=Callable[..., Any])


def compile_module(module: nn.Module, **options: Any) -> None:
    """Compile a module in place, so that several backward passes can go through one forward pass.

    A network is compiled when it first runs, so call this before. ``module.compile()`` alone is not enough: what it
    compiles may give away in one backward pass what the next one reads, and the cache on disk hands it to later runs.

    Args:
        module: any module; names and ``state_dict()`` stay as they are.
        options: of `torch.compile`, for instance ``backend``.
    """
    _keep_what_backward_reads()
    module.compile(**options)


def compile_function(function: F, **options: Any) -> F:
    """Return a function compiled, so that several backward passes can go through one call; see `compile_module`.

    Args:
        function: of tensors.
        options: of `torch.compile`, for instance ``backend``.
    """
    _keep_what_backward_reads()
    return cast(F, torch.compile(function, **options))


def is_compiled(module: nn.Module) -> bool:
    """Tell whether a module, or one inside it, was compiled, by `torch.compile` or by its own ``compile()``."""
    wrappers: tuple[type[nn.Module], ...] = ()
    if "torch._dynamo" in sys.modules:  # else nothing was wrapped yet, and the import takes seconds
        from torch._dynamo import OptimizedModule

        wrappers = (OptimizedModule,)
    # torch has no public way to ask for the second
    return any(isinstance(one, wrappers) or one._compiled_call_impl is not None for one in module.modules())


def _keep_what_backward_reads() -> None:
    """Have nothing compiled from now on, in the whole process, that gives away what a backward pass reads."""
    import torch._functorch.config as aot_settings  # late, as what compiles needs it anyway
    import torch.compiler.config as compiler_settings

    aot_settings.donated_buffer = False
    # Torch's cache of kernels does not tell by itself which of them overwrite what they were given, so that those of
    # another program would be loaded in silence. The tag keeps them apart.
    try:
        if TAG not in compiler_settings.cache_key_tag:
            compiler_settings.cache_key_tag += TAG
    except AttributeError:  # torch 2.6 knows no tags: without its cache it compiles everything itself
        import torch._inductor.config as inductor_settings  # takes a second

        inductor_settings.fx_graph_cache = False
