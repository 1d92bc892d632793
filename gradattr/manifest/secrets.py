"""Secrets stay out of manifests: found ones are refused, and no message repeats one.

A manifest is copied into the run, printed by ``show`` and sent to clusters. Credentials come from
the environment, a profile, or as a reference ``${NAME}`` in ``store.access_key`` and
``store.secret_key`` -- the only two places where ``${...}`` means something.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter

from gradattr.errors import UsageError
from gradattr.manifest.nodes import Fault, MappingNode, Node, Path, Place, ScalarNode, walk

#: Where ``${NAME}`` is allowed.
SECRET_PATHS: tuple[Path, ...] = (("store", "access_key"), ("store", "secret_key"))

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

# Words that end the name of something secret; with the stronger ones even a number is refused.
_STRONG = ("password", "passwd", "passphrase", "pwd", "secret", "secrets", "credentials")
_STRONG_PAIRS = ("secret_key", "private_key", "access_key", "api_key", "apikey", "auth_key")
_WEAK = ("token", "bearer", "authorization")

_KNOWN = (
    r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA)[A-Z0-9]{16}\b",  # AWS
    r"\bgh[pousr]_[A-Za-z0-9]{30,}",  # GitHub
    r"\bgithub_pat_[A-Za-z0-9_]{40,}",
    r"\bglpat-[A-Za-z0-9_-]{20,}",  # GitLab
    r"\bhf_[A-Za-z0-9]{30,}",  # Hugging Face
    r"\bsk-[A-Za-z0-9_-]{20,}",  # OpenAI, Anthropic
    r"\bxox[abprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"\bAIza[A-Za-z0-9_-]{35}",  # Google
    r"\bya29\.[A-Za-z0-9_-]{20,}",
    r"\bwandb_v1_[A-Za-z0-9_]{20,}",
    r"\beyJ[A-Za-z0-9_-]{8,500}\.eyJ[A-Za-z0-9_-]{8,500}\.",  # JSON web token
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----",
    r"(?<![A-Za-z0-9])[A-Za-z0-9+.-]{1,20}://[^/\s@:]{0,200}:[^/\s@]{1,200}@",  # user:password@host
    r"(?i:X-Amz-(?:Signature|Security-Token)=|[?&]sig=|AccountKey=)",  # signed URLs
)
# Every repetition is bounded or cannot fail, so that the search is linear in the text.
_TOKEN = re.compile("|".join(_KNOWN))
# Shannon entropy per character: 40 random ones have about 4.8 bits, English paths about 4.
_RANDOM_BITS = 4.4
_AWS_SECRET = re.compile(r"[A-Za-z0-9/+]{40}")

_ADVICE = "use the environment or a profile"


def find_secrets(root: Node, text: str, source: str) -> tuple[list[Fault], list[str]]:
    """Return faults for secrets and misplaced ``${...}``, and the texts that must not be printed.

    ``text`` is the whole file: a comment is copied with it, so tokens in comments count too.
    """
    faults: list[Fault] = []
    hidden: list[str] = []
    for path, node in walk(root):
        if isinstance(node, MappingNode):
            _check_keys(path, node, faults, hidden)
        if isinstance(node, ScalarNode):
            message = _judge(path, node)
            if message:
                faults.append(Fault(node.place, path, message))
                hidden.append(node.text)
    lines = {fault.place.line for fault in faults}
    for match in _TOKEN.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if line not in lines:
            lines.add(line)
            column = match.start() - text.rfind("\n", 0, match.start())
            place = Place(source, line, column)
            faults.append(Fault(place, (), f"this looks like a secret; {_ADVICE}"))
        hidden.append(match.group())
    return faults, hidden


def redact(message: str, hidden: list[str]) -> str:
    """The message with every hidden text blotted out, in full or as it may have been shortened."""
    for secret in sorted(hidden, key=len, reverse=True):
        for line in secret.splitlines():
            if len(line) < 4:
                continue
            for length in (len(line), 59, 40, 39):
                if length <= len(line):
                    message = message.replace(line[:length], "***")
    return message


def looks_secret(key: str) -> bool:
    """Whether a key of this name holds a secret."""
    words = _words(key)
    return bool(words) and (_is_strong(words) or words[-1] in _WEAK)


def resolve_secret(reference: str) -> str:
    """Return the value of the environment variable that ``${NAME}`` names.

    Raises UsageError (exit code 2) when it is unset or empty. Call it where the value is used, and
    keep the value nowhere.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise UsageError("a secret is given as '${NAME}', the name of an environment variable")
    value = os.environ.get(match.group(1), "")
    if not value:
        raise UsageError(
            f"the environment variable {match.group(1)}, which the manifest names, is not set "
            "on this machine; set it, or leave the key out to use the usual AWS environment"
        )
    return value


def _judge(path: Path, node: ScalarNode) -> str | None:
    # A job of a resolved audit has the audit's store, with its references.
    if (path[2:] if path[:1] == ("jobs",) else path) in SECRET_PATHS:
        if node.value is None or _REFERENCE.fullmatch(node.text):
            return None
        return f"a secret stands in the manifest; {_ADVICE}, or name a variable as '${{NAME}}'"
    if _is_token(node.text):
        return f"this looks like a secret; {_ADVICE}"
    key = next((step for step in reversed(path) if isinstance(step, str)), "")
    if _holds_secret(key, node):
        return f"a key of this name holds a secret; {_ADVICE}"
    if "${" in node.text:
        allowed = "store.access_key and store.secret_key"
        return f"'${{...}}' is not replaced here; it is allowed in {allowed} only"
    return None


def _holds_secret(key: str, node: ScalarNode) -> bool:
    if node.value is None or isinstance(node.value, bool) or node.text == "":
        return False
    words = _words(key)
    if not words:
        return False
    if _is_strong(words):
        return True
    return words[-1] in _WEAK and isinstance(node.value, str)


def _is_strong(words: list[str]) -> bool:
    return words[-1] in _STRONG or "_".join(words[-2:]) in _STRONG_PAIRS or words[-1] == "apikey"


def _words(key: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
    return [word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word]


def _check_keys(path: Path, node: MappingNode, faults: list[Fault], hidden: list[str]) -> None:
    for key, place in node.keys.items():
        if _is_token(key):
            faults.append(Fault(place, path, f"this key looks like a secret; {_ADVICE}"))
            hidden.append(key)
        elif "${" in key:
            faults.append(Fault(place, path, "'${...}' is not allowed in a key"))


def _is_token(text: str) -> bool:
    return _TOKEN.search(text) is not None or _is_aws_secret(text)


def _is_aws_secret(text: str) -> bool:
    """40 random characters of base64: an AWS secret key has no prefix to know it by."""
    if not _AWS_SECRET.fullmatch(text):
        return False
    kinds = (str.isupper, str.islower, str.isdigit)
    if not all(any(kind(char) for char in text) for kind in kinds):
        return False
    shares = [count / len(text) for count in Counter(text).values()]
    return -sum(share * math.log2(share) for share in shares) > _RANDOM_BITS
