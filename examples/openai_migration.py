"""Fine-tune a model on support tickets and ask it about new ones, as a script written for OpenAI's API does.

Nothing in it belongs to this service: OPENAI_BASE_URL and OPENAI_API_KEY say where it runs.
"""

import json
import time
from pathlib import Path

from openai import OpenAI

TICKETS = Path(__file__).with_name("support_tickets.jsonl")
SYSTEM = {"role": "system", "content": "Sort the support ticket into one category."}
NEW_TICKETS = ["Where is my parcel?", "I was charged twice this month"]

client = OpenAI()

rows = [json.loads(line) for line in TICKETS.read_text(encoding="utf-8").splitlines()]
lines = [
    {
        "messages": [
            SYSTEM,
            {"role": "user", "content": row["input"]},
            {"role": "assistant", "content": row["output"]},
        ]
    }
    for row in rows
]
data = "\n".join(json.dumps(line) for line in lines).encode()
file = client.files.create(file=("tickets.jsonl", data), purpose="fine-tune")
file = client.files.wait_for_processing(file.id)

job = client.fine_tuning.jobs.create(
    training_file=file.id,
    model="gpt-4o-mini-2024-07-18",
    suffix="tickets",
    method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
)
while job.status not in ("succeeded", "failed", "cancelled"):
    time.sleep(1)
    job = client.fine_tuning.jobs.retrieve(job.id)
for event in reversed(client.fine_tuning.jobs.list_events(job.id, limit=100).data):
    print(event.message)
if job.fine_tuned_model is None:
    raise SystemExit(f"the job has {job.status}: {job.error}")

print(client.files.content(job.result_files[0]).text)
for ticket in NEW_TICKETS:
    answer = client.chat.completions.create(
        model=job.fine_tuned_model,
        messages=[SYSTEM, {"role": "user", "content": ticket}],
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    print(f"{ticket} -> {answer.choices[0].message.content}")
