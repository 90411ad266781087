"""A model that keeps the bill: what was asked, and what was answered and must be paid for."""

from collections import Counter

import trio

from pipeline_engine import Completion, Price, Usage


class PaidModel:
    """Answer each prompt after some seconds, and remember which calls were finished."""

    name = "paid:model"
    price = Price(input_usd=1.0, output_usd=1.0)

    def __init__(self, answer=str.upper, *, seconds=1.0, name="paid:model"):
        self.name = name
        self._answer = answer
        self._seconds = seconds
        self.sent = []
        self.finished = []

    async def complete(self, request):
        prompt = request.messages[-1].text
        self.sent.append(prompt)
        await trio.sleep(self._seconds(prompt) if callable(self._seconds) else self._seconds)
        answer = self._answer(prompt)
        if isinstance(answer, Exception):
            raise answer
        self.finished.append(prompt)
        return answer if isinstance(answer, Completion) else Completion(answer, usage=Usage(1_000_000, 1_000_000))

    @property
    def bill(self):
        """How often each prompt was answered."""
        return Counter(self.finished)
