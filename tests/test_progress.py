"""Progress bars: in an editor of notebooks widgets, elsewhere text."""

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

BAR = "from selfatt_lib.machinery.progress import tqdm\nfor _ in tqdm(range(3)): pass"
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def shown(monkeypatch):
    """Bars are shown; for the other tests they are off."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


def outputs(metadata=None, before=""):
    """Run a bar in a new kernel, as a front end asks; return what it shows: list."""
    manager, client = start_new_kernel(env=os.environ.copy())
    try:
        content = {"code": f"{before}\n{BAR}", "silent": False}
        request = client.session.msg("execute_request", content, metadata=metadata)
        client.shell_channel.send(request)
        said = []
        while not said or said[-1]["content"].get("execution_state") != "idle":
            message = client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") == request["msg_id"]:
                said.append(message)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    kinds = ("display_data", "stream")
    return [each["content"] for each in said if each["msg_type"] in kinds]


@pytest.mark.parametrize(
    ("metadata", "before"),
    [
        ({"cellId": "f1c3a2"}, ""),
        ({}, "import sys; sys.modules['google.colab'] = sys"),
        ({}, "import os; os.environ['KAGGLE_KERNEL_RUN_TYPE'] = 'Interactive'"),
    ],
)
def test_where_a_notebook_is_open_a_bar_is_a_widget(metadata, before, shown):
    (bar,) = outputs(metadata, before)
    assert WIDGET in bar["data"]


def test_bars_that_are_switched_off_are_off_in_a_notebook_too(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert outputs({"cellId": "f1c3a2"}) == []


@pytest.mark.parametrize(
    "before", ["", "import os; os.environ['KAGGLE_KERNEL_RUN_TYPE'] = 'Batch'"]
)
def test_where_nobody_looks_on_a_bar_is_text(before, shown):
    said = outputs(before=before)
    assert {each.get("name") for each in said} == {"stderr"}
    assert "3/3" in "".join(each["text"] for each in said)


@pytest.mark.parametrize(
    "command",
    [
        "jupyter execute --inplace bar.ipynb",
        "papermill --no-progress-bar bar.ipynb bar.ipynb",
    ],
)
def test_a_notebook_run_by_a_command_has_text(command, shown, tmp_path):
    path = write_notebook(tmp_path)
    module, *arguments = command.split()
    command = [sys.executable, "-m", module, *arguments]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    found = nbformat.read(path, as_version=4).cells[0].outputs
    assert {output.get("name") for output in found} == {"stderr"}
    assert "3/3" in "".join(output.text for output in found)


def write_notebook(folder):
    path = folder / "bar.ipynb"
    cell = nbformat.v4.new_code_cell(BAR)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), path)
    return path


@pytest.fixture
def jupyterlab(tmp_path):
    """The address of a JupyterLab that shows a folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = (
        f"--no-browser --allow-root --ServerApp.port={port} "
        "--ServerApp.port_retries=0 --IdentityProvider.token="
    )
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options.split()],
        cwd=tmp_path,
        env=os.environ | {"HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/lab"
    server.terminate()
    server.wait()


def test_in_jupyterlab_a_bar_is_a_widget(browser, shown, jupyterlab, tmp_path):
    write_notebook(tmp_path)
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.goto(f"{jupyterlab}/tree/bar.ipynb")
    page.wait_for_selector("text=Python 3 (ipykernel) | Idle")
    page.click(".jp-CodeCell .cm-content")
    page.keyboard.press("Shift+Enter")
    page.wait_for_selector(".jp-OutputArea .jupyter-widgets >> text=3/3")
    page.close()
