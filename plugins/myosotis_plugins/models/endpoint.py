"""A hosted model, asked over the network."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from torch import nn

from myosotis import hookimpl
from myosotis.errors import ConfigurationError, ModelError
from myosotis.interfaces import Model, ModelFactory, Objective
from myosotis_plugins.objectives.asked import Prompt
from myosotis_plugins.objectives.generation import Decoding

MYOSOTIS_API = 1


class Endpoint(ModelFactory):
    """A model behind an interface like OpenAI's: a reference row, scored by the texts that it writes.

    Only the base's row is taken: `'method=[]' curriculum=none`. The answers are kept as those of every base, for
    all studies; where another model is served under the same name, another `revision` asks anew.

    Args:
        url: the address before `/chat/completions`, such as `https://api.openai.com/v1`.
        name: the served model's.
        requests: the most requests that a trial may make, those that are tried again among them.
        retries: how often a request is tried again after an error that may pass, by the client `openai`.
        key_variable: the environment variable that holds the key; null for a server that asks for none.
        by: how a prompt that is a text is sent: as the one message of a `chat`, or as it is, for `completions`.
            Conversations, as of the objective `instruction` with `template=chat`, are always sent as a chat.
        concurrency: how many requests are under way at once.
        options: more of what every request holds, such as `{seed: 1}`; null takes out what is there:
            `max_tokens`, and a `temperature` of 0.
        timeout: seconds that an answer may take.
        revision: names a state of what is served.
    """

    # None of them changes what is answered.
    locations = frozenset({"requests", "retries", "key_variable", "concurrency", "timeout"})

    def __init__(
        self,
        url: str,
        name: str,
        requests: int = 1000,
        retries: int = 2,
        key_variable: str | None = "OPENAI_API_KEY",
        by: Literal["chat", "completions"] = "chat",
        concurrency: int = 1,
        options: dict[str, Any] | None = None,
        timeout: float = 120.0,
        revision: str | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(f"url must begin with http:// or https://, but got {url!r}")
        if "@" in urlsplit(url).netloc:
            raise ConfigurationError(
                "url must hold no name and no password, for it is written down; put the key into the environment "
                "variable that key_variable names"
            )
        if min(requests, retries + 1, concurrency) < 1 or timeout <= 0:
            raise ConfigurationError(
                "requests and concurrency must be at least 1, retries 0, and timeout more than 0 seconds, but got "
                f"{requests}, {concurrency}, {retries} and {timeout}"
            )
        self.url = url
        self.name = name
        self.requests = requests
        self.retries = retries
        self.key_variable = key_variable
        self.by = by
        self.concurrency = concurrency
        self.options = options or {}
        self.timeout = timeout

    def load(self, objectives: Collection[Objective]) -> Model:
        """Make ready to ask; nothing is sent yet."""
        if find_spec("openai") is None:
            raise ModelError(
                "model=endpoint must have the client openai, but it is not installed; "
                "pip install 'myosotis[endpoint]'"
            )
        self.key()
        return Model(Asking(self), text_only=True)

    def outline(self, objectives: Collection[Objective]) -> Model:
        """Give the same, for it has no memory."""
        return self.load(objectives)

    def save(self, model: Model, folder: Path) -> None:
        """Refuse: nothing of it is here."""
        raise ModelError("a model behind an endpoint cannot be saved, for nothing of it is here")

    def key(self) -> str:
        """Read the key.

        Raises:
            ModelError: it is not in the environment.
        """
        if self.key_variable is None:
            return "none"  # the client must have one
        found = os.environ.get(self.key_variable)
        if not found:
            raise ModelError(
                f"the environment variable {self.key_variable} must hold the endpoint's key, but is not set; "
                f"export {self.key_variable}=…, or give model.key_variable=null where the server asks for none"
            )
        return found


class Asking(nn.Module):
    """Asks an endpoint.

    Args:
        endpoint: which one, and how.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        self.endpoint = endpoint
        self.budget = Budget(endpoint.requests)

    def __deepcopy__(self, memo: Any) -> Asking:
        """Give itself: copies would count their requests apart."""
        return self

    def write(self, prompts: Sequence[Prompt], max_new_tokens: int, decoding: Decoding) -> list[str]:
        """Answer prompts.

        Raises:
            ModelError: the endpoint gives no answer.
            ConfigurationError: the requests are used up, or no request can ask for such a decoding.
        """
        body = {key: each for key, each in self._body(max_new_tokens, decoding).items() if each is not None}
        with ThreadPoolExecutor(self.endpoint.concurrency) as pool:
            return list(pool.map(lambda prompt: self._answer(prompt, body), prompts))

    def settings(self, max_new_tokens: int, decoding: Decoding) -> str:
        """Say how it writes: as requests say where they have options of the user's."""
        if not self.endpoint.options:
            return decoding.settings(max_new_tokens)
        body = self._body(max_new_tokens, decoding)
        return ", ".join(f"{key} {'not said' if each is None else each}" for key, each in body.items())

    def _body(self, max_new_tokens: int, decoding: Decoding) -> dict[str, Any]:
        asked = Decoding(temperature=decoding.temperature, top_p=decoding.top_p)
        if decoding.settings(max_new_tokens) != asked.settings(max_new_tokens):
            raise ConfigurationError(
                "an endpoint takes temperature and top_p as every interface like OpenAI's does, but is asked for "
                f"{decoding.settings(max_new_tokens)}; give what more it takes in model.options"
            )
        drawn = {"top_p": asked.top_p} if asked.top_p < 1 else {}
        body = {"max_tokens": max_new_tokens, "temperature": asked.temperature, **drawn}
        return {**body, **self.endpoint.options}

    def _answer(self, prompt: Prompt, body: Mapping[str, Any]) -> str:
        from openai import OpenAIError

        try:
            return self._ask(prompt, body)
        except OpenAIError as error:
            # Without the client's own error, which may say more of the request than is to be in a file.
            raise self._refused(error) from None

    def _ask(self, prompt: Prompt, body: Mapping[str, Any]) -> str:
        client, name = self._client, self.endpoint.name
        if isinstance(prompt, str) and self.endpoint.by == "completions":
            completion = client.completions.create(model=name, prompt=prompt, extra_body=body)
            return str(completion.choices[0].text)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        chat = client.chat.completions.create(model=name, messages=messages, extra_body=body)
        return chat.choices[0].message.content or ""

    @cached_property
    def _client(self) -> Any:
        from openai import DefaultHttpxClient, OpenAI

        return OpenAI(
            base_url=self.endpoint.url,
            api_key=self.endpoint.key(),
            max_retries=self.endpoint.retries,
            timeout=self.endpoint.timeout,
            # Where every try passes through, the client's own among them.
            http_client=DefaultHttpxClient(event_hooks={"request": [self.budget.spend]}),
        )

    def _refused(self, error: Exception) -> ModelError:
        from openai import APIConnectionError, AuthenticationError, NotFoundError, PermissionDeniedError

        url, variable = self.endpoint.url, self.endpoint.key_variable
        if isinstance(error, APIConnectionError):
            return ModelError(
                f"the endpoint {url} must answer, but cannot be reached ({error.__cause__ or error}); look at "
                "model.url, at the network, and whether the server runs"
            )
        if isinstance(error, AuthenticationError | PermissionDeniedError):
            return ModelError(
                f"the endpoint {url} must accept the key, but refuses it (status {error.status_code}); look at the "
                f"environment variable {variable}, and at what the key allows"
            )
        said = str(error).replace(self.endpoint.key(), "…")
        other = "completions" if self.endpoint.by == "chat" else "chat"
        advice = f"; look at model.url and model.name, or take model.by={other}"
        return ModelError(
            f"the endpoint {url} must answer, but gives an error: {said}"
            f"{advice if isinstance(error, NotFoundError) else ''}"
        )


class Budget:
    """Counts requests.

    Args:
        requests: how many there may be.
    """

    def __init__(self, requests: int) -> None:
        self.requests = requests
        self.spent = 0
        self._lock = threading.Lock()

    def spend(self, request: Any) -> None:
        """Count a request that is about to be sent.

        Raises:
            ConfigurationError: there may be no more; it is not sent.
        """
        with self._lock:
            if self.spent >= self.requests:
                raise ConfigurationError(
                    f"a trial may make {self.requests} requests, and has made them, tries again among them; raise "
                    "model.requests, or score fewer rows with evaluation.limit=…"
                )
            self.spent += 1


@hookimpl
def myosotis_models() -> Mapping[str, type[ModelFactory]]:
    """Give the model factory."""
    return {"endpoint": Endpoint}
