"""What passes between the control side and the agents."""

import sys

# redis-py imports OpenTelemetry's SDK for metrics wherever it is installed, and never uses it here: 0.06 CPU seconds of
# every command. None stands for a module that cannot be imported, which redis-py is content with.
sys.modules.setdefault("opentelemetry.sdk.metrics", None)  # type: ignore[arg-type]  # documented for this use
