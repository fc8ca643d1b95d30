"""What training will cost on a machine, said before it starts; and what it did cost, beside it."""

from __future__ import annotations

from pydantic import Field

from milepost.resources.base import Frozen


class Speed(Frozen):
    """How fast a machine multiplies matrices, measured once and kept. `machine` tells whether it is still that one."""

    machine: str = Field(description="Processor, cores and PyTorch version that were measured.")
    dtype: str = Field(description="The number format training would choose there: `bfloat16` or `float32`.")
    gflops: dict[int, float] = Field(
        description="Threads → billions of floating point operations per second in matrix products."
    )

    is_quiet: bool = Field(
        default=True,
        description="Whether little else ran: if not, it is measured again when little does, and the faster one kept.",
    )

    def stands(self, machine: str, *, is_quiet_now: bool) -> bool:
        """Whether it need not be measured again. What a busy machine would say is not worth the seconds it takes from
        those who keep it busy.
        """
        return self.machine == machine and (self.is_quiet or not is_quiet_now)

    def better(self, earlier: Speed | None) -> Speed:
        """A measurement with the faster of both at each number of threads; another machine's counts for nothing."""
        if earlier is None or earlier.machine != self.machine:
            return self
        faster = {
            threads: max(self.gflops.get(threads, 0.0), earlier.gflops.get(threads, 0.0))
            for threads in sorted({*self.gflops, *earlier.gflops})
        }
        return self.model_copy(update={"gflops": faster, "is_quiet": self.is_quiet or earlier.is_quiet})

    def of(self, threads: int) -> float:
        """With so many threads, or the nearest number that was measured, in proportion."""
        nearest = min(self.gflops, key=lambda measured: (abs(measured - threads), measured))
        return self.gflops[nearest] * min(1.0, threads / nearest)


class Actual(Frozen):
    """What a job did cost. Of a job that was interrupted: over all its processes, what was computed twice included."""

    seconds: float = Field(description="Seconds its training processes ran, from their start to their end.")
    tokens: int = Field(description="Tokens seen in training, over all epochs.")
    tokens_per_second: float = Field(description="`tokens` over `seconds`: start, evaluations and saving included.")
    memory_bytes: int = Field(description="Most memory (resident set) that one of its processes had.")


class Forecast(Frozen):
    """What training on a file will cost on this machine. Times are of a machine that does nothing else."""

    epochs: int = Field(description="How often each example is seen.")
    steps: int = Field(description="Optimizer steps, over all epochs.")
    tokens: int = Field(description="Tokens seen in training, over all epochs.")
    seconds: float | None = Field(
        None, description="Seconds from the start of training to its end; null if the machine was not measured yet."
    )
    tokens_per_second: float | None = Field(None, description="`tokens` over `seconds`.")
    memory_bytes: int | None = Field(None, description="Most memory (resident set) training will have.")
    memory_limit_bytes: int | None = Field(None, description="Most memory a training process can have here.")
    largest_batch_size: int | None = Field(
        None, description="The largest `batch_size` of which that much memory is foreseen; null if there is none."
    )
    threads: int | None = Field(None, description="Threads the forecast is for.")
    dtype: str | None = Field(None, description="The number format it is for.")
    machine_gflops: float | None = Field(None, description="Measured speed of matrix products with these threads.")
    gflop_per_token: float | None = Field(
        None, description="Operations to train a token of this file, in billions: forward and back, evaluations apart."
    )
    efficiency: float | None = Field(
        None, description="The share of the machine's speed that training is taken to reach, as measured elsewhere."
    )
    is_estimate: bool = Field(
        default=False, description="Whether the tokens are estimated from a sample of the file's examples."
    )
    note: str | None = Field(None, description="Why a part of the forecast is missing.")
    actual: Actual | None = Field(None, description="What it did cost, once the job has succeeded.")
