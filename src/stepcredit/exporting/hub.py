"""Uploading a finished folder to the Hugging Face hub, with errors that say what to do."""

from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import validate_repo_id

from stepcredit.errors import RunError

_LOG_IN = "`hf auth login`, or set HF_TOKEN, with a token that may write"


def check(name: str) -> None:
    """What can be said against an upload before anything is made."""
    try:
        validate_repo_id(name)  # of the characters; it takes a name without an owner, too
    except HFValidationError as error:
        raise RunError(f'"{name}" is not a name on the hub ({_first_line(error)}); write it as OWNER/NAME') from None
    if name.count("/") != 1:
        raise RunError(f'"{name}" is not a name on the hub; write it as OWNER/NAME')
    if huggingface_hub.constants.is_offline_mode():
        raise RunError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it, or leave out --push-to-hub")
    if huggingface_hub.get_token() is None:
        raise RunError(f"there is no token of the hub on this machine; {_LOG_IN}")


def upload(folder: Path, name: str, *, private: bool, message: str) -> None:
    """Everything in a folder, in one commit; never into a public repository where a private one is asked for."""
    api = HfApi()
    try:
        # None, not False: a repository that is there stays as it is, and a new one follows its owner's setting.
        api.create_repo(name, private=private or None, exist_ok=True)
        # A repository that was there before is not made private by `create_repo`.
        public = private and not api.model_info(name).private
        if not public:
            api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    except Exception as error:  # the hub's own errors, its transport's, the operating system's
        raise RunError(f"{_explain(name, error)}. The export is whole in {folder}") from error
    if public:
        raise RunError(
            f"{name} exists already and is public, and --private was asked for; nothing was uploaded. Make it private "
            f"on its page, or choose another name. The export is whole in {folder}"
        )


def _explain(name: str, error: Exception) -> str:
    # Errors of the transport have no response, and some of the hub's own have one that is None.
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return f"the hub does not know who you are; {_LOG_IN}"
    if status == 403:
        return (
            f"this token may not write to {name}; take a token with the role `write`, and an OWNER that is you or an "
            "organisation of yours (`hf auth whoami` lists them)"
        )
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing was uploaded; unset it"
    if isinstance(error, HfHubHTTPError):
        return f"the hub refused {name} ({_first_line(error)})"
    return f"the hub cannot be reached ({_first_line(error)}); where there is a connection: hf upload {name} FOLDER ."


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
