"""The command `ipt` with all subcommands, and the exit codes and messages of failed commands."""

import logging
import sys
import warnings

import typer
from pydantic import ValidationError

from app.cli import (
    classify,
    demo,
    derived_subspace,
    evaluate,
    export,
    import_dataset,
    keys,
    report,
    service,
    settings,
    study,
    subspace,
    suggest,
    task_examples,
    task_versions,
    tasks,
    tenants,
    tune_prompts,
    webhooks,
)
from app.cli.output import CliError, print_error
from app.cli.text_command import TextCommand

_ABOUT = """Adapt one frozen language model to many few-shot tasks; each task is one vector of 250 floats.

\b
ipt demo                                   see it work end to end
ipt serve                                  run the service on this machine
ipt adapt examples/support_tickets.jsonl   adapt to a few-shot task
ipt predict support_tickets "my text"      use the task
"""

cli = typer.Typer(
    name="ipt",
    help=_ABOUT,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_WITH_TEXTS = (tasks.predict, tasks.generate, classify.classify)
for _command in (demo.demo, service.serve, tasks.adapt, *_WITH_TEXTS, report.evaluate, suggest.suggest, export.export):
    cli.command(cls=TextCommand if _command in _WITH_TEXTS else None)(_command)
tasks.commands.command()(report.report)
tasks.commands.command()(task_examples.examples)
tasks.commands.command()(task_examples.edit)
tasks.commands.command()(task_versions.promote)
tasks.commands.command()(task_versions.thresholds)
tasks.commands.command()(task_versions.usage)
cli.add_typer(tasks.commands, name="tasks")
cli.add_typer(webhooks.commands, name="webhooks")
subspace.commands.command()(derived_subspace.redirect)
subspace.commands.command()(derived_subspace.share_lower_layers)
subspace.commands.command()(tune_prompts.tune_prompts)
subspace.commands.command()(evaluate.evaluate)
subspace.commands.command()(study.study)
subspace.commands.command()(import_dataset.import_dataset)
cli.add_typer(subspace.commands, name="subspace")
for _command in (service.worker, service.migrate, settings.settings):
    cli.command(rich_help_panel="Operating")(_command)
cli.add_typer(keys.commands, name="keys", rich_help_panel="Operating")
cli.add_typer(tenants.commands, name="tenants", rich_help_panel="Operating")


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 success, 1 failure, 2 wrong usage, 130 Ctrl-C."""
    logging.captureWarnings(True)
    warnings.simplefilter("ignore", FutureWarning)
    try:
        try:
            cli(args=arguments, prog_name="ipt")
        finally:
            sys.stdout.flush()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
    except KeyboardInterrupt:
        return 130
    except CliError as error:
        print_error(str(error))
        return 1
    except ValidationError as error:
        # Settings are the only pydantic model that a command builds from user input.
        from app.settings import explain_invalid

        print_error(explain_invalid(error)[0])
        return 1
    except OSError as error:  # a full disk, a read-only folder
        where = "" if error.filename is None else f"{error.filename}: "
        print_error(f"{where}{error.strerror or error}")
        return 1
    except Exception as error:
        if not _has_message_for_users(error):
            raise
        print_error(str(error))
        return 1
    return 0


def _has_message_for_users(error: Exception) -> bool:
    """Return whether the error is an `IptError`, or a failed write of safetensors.

    Compares names, since importing either class loads torch for every command.
    """
    names = {(kind.__module__, kind.__name__) for kind in type(error).__mro__}
    return ("ipt.errors", "IptError") in names or "SafetensorError" in {name for _, name in names}
