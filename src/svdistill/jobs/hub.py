"""Trained networks on the Hugging Face hub: put there, and fetched from there."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from svdistill import nets
from svdistill.atomic import write_atomically
from svdistill.errors import DataError, OptionError, SvdistillError, one_line
from svdistill.jobs.card import model_card
from svdistill.jobs.run import Run
from svdistill.jobs.student import Student

FILE, CARD = "student.safetensors", "README.md"


class HubError(SvdistillError, RuntimeError):
    """The hub is out of reach, does not know a repository, or does not let us in."""

    exit_status = 1


def push(
    path: str | os.PathLike[str],
    repo: str,
    *,
    also: Sequence[str | os.PathLike[str]] = (),
    private: bool = False,
    allow_code: bool = False,
    endpoint: str | None = None,
) -> str:
    """Put a trained network on the hub, with a model card that is written from the records of its run.

    The repository is made if need be. All files come in one commit, or none does. Where files lie on this machine is
    left out of the recipe.

    Args:
        path: a run's folder, or its ``student.safetensors``.
        repo: ``OWNER/NAME``.
        also: further files to put beside it under their own names, for instance exports.
        private: whether a repository that is made is private.
        allow_code: whether the code that the network is made of, a class of somebody's own, may be imported and run.
        endpoint: address of the hub; None = that in the variable HF_ENDPOINT, else huggingface.co.

    Returns:
        The address of the commit.

    Raises:
        DataError: no such run or file, or two files of one name.
        CheckpointError: the network's file is damaged.
        HubError: the hub is out of reach, or refuses.
        OptionError: huggingface_hub is not installed, or the name is not one of a repository.
    """
    hub = _library()
    _check_name(repo)
    student = Student.load(path, allow_code=allow_code)
    files = {FILE: student.file}
    for extra in map(Path, also):
        if not extra.is_file():
            raise DataError(f"there is no file {extra} to put beside the network")
        if extra.name in (*files, CARD):
            raise DataError(f"there are two files called {extra.name}; rename {extra}")
        files[extra.name] = extra
    card = _card(repo, student)
    operations = [hub.CommitOperationAdd(CARD, card.encode())]
    operations += [hub.CommitOperationAdd(name, str(file)) for name, file in files.items()]
    api = hub.HfApi(endpoint=endpoint, library_name="svdistill")
    with _reaching(repo, endpoint):
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.create_commit(repo, operations, commit_message="Upload a student of svdistill")
    return str(done.commit_url)


def pull(
    repo: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    endpoint: str | None = None,
) -> Path:
    """Fetch a trained network from the hub; no code runs.

    Args:
        repo: ``OWNER/NAME``.
        folder: where to put it; None = a folder of the repository's name here.
        revision: a branch, tag or commit; None = the newest.
        endpoint: as for `push`.

    Returns:
        Its ``student.safetensors``, which is there whole or not at all.

    Raises:
        DataError: another network is there already.
        CheckpointError: what was fetched is damaged, or not a network of ours.
        HubError: the hub is out of reach, or has no such network.
        OptionError: huggingface_hub is not installed, or the name is not one of a repository.
    """
    hub = _library()
    _check_name(repo)
    target = Path(repo.rpartition("/")[2] if folder is None else folder) / FILE
    place = next(parent for parent in target.absolute().parents if parent.exists())
    if not place.is_dir() or target.is_dir():
        raise DataError(f"{target} cannot be written: another file or folder is in the way; name another folder")
    with TemporaryDirectory() as temporary:
        with _reaching(repo, endpoint):
            fetched = Path(hub.hf_hub_download(repo, FILE, revision=revision, local_dir=temporary, endpoint=endpoint))
        nets.spec(fetched)  # compares it with its checksum
        content = fetched.read_bytes()
    if target.exists() and target.read_bytes() != content:
        raise DataError(f"{target} is there and is another network; name another folder, or remove it")
    write_atomically(target, content)
    return target


def _check_name(repo: str) -> None:
    """Refuse a name without its owner, which huggingface_hub takes for an old repository or for one of ours."""
    if repo.count("/") != 1:
        raise OptionError(f"{repo!r} is not the name of a repository, OWNER/NAME")


def _library() -> ModuleType:
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise OptionError(
            f"the hub needs huggingface_hub ({one_line(error)}); install it with: pip install 'svdistill[hub]'"
        ) from error


def _card(repo: str, student: Student) -> str:
    about: dict[str, Any] = {
        "network": student.name,
        "classes": student.classes,
        "channels": student.channels,
        "image_size": student.image_size,
        "mean": student.mean,
        "std": student.std,
    }
    if student.trained_on is not None:
        about["data"] = student.trained_on
    run = Run(student.file.parent)
    if not run.finished or run.student_file.resolve() != student.file.resolve():
        return model_card(repo, about)
    record = run.record
    return model_card(repo, about, summary=record.summary(), recipe=record.recipe(), environment=record.environment())


@contextmanager
def _reaching(repo: str, endpoint: str | None) -> Iterator[None]:
    """Say in one line what the hub, or the way to it, has against a request."""
    errors = import_module("huggingface_hub.errors")
    address = endpoint or import_module("huggingface_hub.constants").ENDPOINT
    logging = import_module("huggingface_hub.utils.logging")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # each attempt is told otherwise
    try:
        yield
    except errors.HFValidationError as error:
        raise OptionError(f"{repo!r} is not the name of a repository, OWNER/NAME: {one_line(error)}") from error
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise HubError(_out_of_reach(address, error)) from error
        raise HubError(f"{repo} on the hub holds no {FILE}, so it is not a student of svdistill") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{repo} on the hub has no such revision; name a branch, a tag or a commit") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"the hub has no repository {repo}, or not for us; look at its name, or log in with 'hf auth login'"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        login = "; log in with 'hf auth login', with a token that may write" if status in (401, 403) else ""
        raise HubError(f"the hub refuses {repo} (status {status}){login}") from error
    except (errors.HTTPError, OSError) as error:
        raise HubError(_out_of_reach(address, error)) from error
    finally:
        logging.set_verbosity(verbosity)


def _out_of_reach(address: str, error: Exception) -> str:
    cause = error.__cause__ or error
    return f"the hub, {address}, is out of reach ({one_line(cause)}); try again, or set HF_ENDPOINT to another"
