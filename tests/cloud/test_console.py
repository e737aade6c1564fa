"""The console in a real browser with a real cloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from edgewright.contracts import signing
from edgewright.contracts.messages import DeploymentState, RolloutRequest
from edgewright.sdk import CloudClient
from tests.support.running_cloud import RunningCloud, running
from tests.support.scripted_devices import ScriptedDevice, enrol_scripted
from tests.support.small_packages import make_package

HOSTILE = "<img src=x onerror=\"document.title='hacked'\">"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",  # the authority is the test's own
    "--window-size=1280,1400",
)


class Page:
    """The console in the browser."""

    def __init__(self, driver: webdriver.Chrome, cloud: RunningCloud) -> None:
        self.driver = driver
        self._cloud = cloud

    def open(self, fragment: str = "") -> None:
        self.driver.get("about:blank")
        self.driver.get(f"{self._cloud.url}/{fragment}")

    def open_as_operator(self) -> None:
        self.open(f"#token={self._cloud.token}")
        self.wait_for("#connection", "live")

    def text(self, selector: str) -> str:
        return str(self.driver.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def wait_for(self, selector: str, text: str) -> None:
        waiting = WebDriverWait(self.driver, 15, poll_frequency=0.1)
        waiting.until(lambda _: text in self.text(selector), f"{selector} must contain {text!r}, not {self.text(selector)!r}")

    def click(self, selector: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def script(self, code: str) -> Any:
        return self.driver.execute_script(code)

    def errors(self) -> list[str]:
        """Return errors from the browser's log, including violations of the content security policy."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def publisher() -> signing.PrivateKey:
    return signing.generate_key()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory, publisher: signing.PrivateKey) -> Iterator[RunningCloud]:
    folder = tmp_path_factory.mktemp("console")
    public = signing.write_key_pair(folder / "publisher.key", publisher)
    with running(folder / "state", "--no-broker", "--trust", str(public)) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def client(cloud: RunningCloud, publisher: signing.PrivateKey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudClient]:
    """An operator client; the cloud has two versions of one model."""
    with CloudClient.connect(str(cloud.state)) as connected:
        for graph in (b"first", b"second"):
            connected.publish(make_package(tmp_path_factory.mktemp("package"), "digits", graph).layout.path, publisher)
        yield connected


@pytest.fixture(scope="module")
def devices(cloud: RunningCloud, client: CloudClient, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ScriptedDevice]:
    """Three devices; one has a label with HTML markup."""
    folder = tmp_path_factory.mktemp("devices")
    devices = {name: enrol_scripted(cloud, name, folder) for name in ("cam-1", "cam-2", "cam-3")}
    client.set_labels("cam-3", {"site": HOSTILE})
    return devices


@pytest.fixture(scope="module")
def driver(require: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(require("chromium"))
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(require("chromedriver"))))
    started.set_page_load_timeout(30)
    yield started
    started.quit()


@pytest.fixture
def page(driver: webdriver.Chrome, cloud: RunningCloud, devices: dict[str, ScriptedDevice]) -> Page:
    page = Page(driver, cloud)
    page.open()
    driver.execute_script("sessionStorage.clear()")
    driver.get("about:blank")
    page.errors()  # reading the log clears it
    return page


@pytest.fixture
def rollout(client: CloudClient, page: Page) -> Iterator[Callable[..., int]]:
    """Start rollouts; abort them at the end of the test."""
    started: list[int] = []

    def start(version: int, *names: str, waves: tuple[str, ...] = ("1", "100%"), workload: str = "") -> int:
        request = RolloutRequest(model="digits", version=version, devices=names, waves=waves, workload=workload)
        started.append(client.create_rollout(request).rollout)
        return started[-1]

    yield start
    for number in started:
        if client.rollout(number).state in ("running", "paused"):
            client.abort_rollout(number)


def test_the_page_asks_for_the_token_and_refuses_a_wrong_one(page: Page, cloud: RunningCloud) -> None:
    page.open()
    page.driver.find_element(By.ID, "token").send_keys("wrong", Keys.ENTER)
    page.wait_for("#ask-error", "the operator token must be the one in operator.token")
    page.driver.find_element(By.ID, "token").send_keys(cloud.token, Keys.ENTER)
    page.wait_for("#connection", "live")


def test_a_token_in_the_address_is_removed_from_it_and_kept_for_the_tab(page: Page, cloud: RunningCloud) -> None:
    page.open_as_operator()
    assert page.driver.current_url == f"{cloud.url}/"
    page.driver.refresh()
    page.wait_for("#connection", "live")
    assert page.script("return localStorage.length + document.cookie.length") == 0


def test_devices_and_versions_are_shown(page: Page) -> None:
    page.open_as_operator()
    page.wait_for("#device-table", "cam-2")
    page.wait_for("#figures", "3 / 3devices online")
    assert page.text("#model-table tbody tr:first-child").startswith("digitsv2fp32")


def test_text_from_a_device_is_never_markup(page: Page, devices: dict[str, ScriptedDevice]) -> None:
    devices["cam-3"].report(None, HOSTILE)
    page.open_as_operator()
    page.wait_for("#device-table", f"site={HOSTILE}")
    page.click("#device-table [data-device='cam-3']")
    page.wait_for("#facts", HOSTILE)
    assert page.script("return document.querySelectorAll('[onerror]').length") == 0
    assert page.driver.title == "edgewright"


def test_the_page_does_not_violate_its_content_security_policy(page: Page) -> None:
    page.open_as_operator()
    page.wait_for("#device-table", "cam-1")
    assert page.errors() == []


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param("document.body.innerHTML = '<b>x</b>'", id="markup from text"),
        pytest.param("document.body.setAttribute('onclick', 'x()')", id="script in an attribute"),
    ],
)
def test_the_policy_blocks_markup_and_scripts_from_text(page: Page, attempt: str) -> None:
    page.open_as_operator()
    assert page.script(f"try {{ {attempt}; return 'done' }} catch (error) {{ return error.name }}") == "TypeError"


def test_a_rollout_is_shown_live_from_wave_to_wave(
    page: Page, devices: dict[str, ScriptedDevice], rollout: Callable[..., int]
) -> None:
    page.open_as_operator()
    number = rollout(1, "cam-1", "cam-2")
    page.wait_for(f"[aria-label='Rollout {number}'] .reason", "wave 1 of 2: 0 of 1 running, 1 in progress")
    devices["cam-1"].run_desired()
    page.wait_for(f"[aria-label='Rollout {number}'] [aria-label='Wave 1 of 2'] .wave-head", "1 of 1 running")
    page.wait_for("#device-table", "digits:1")
    devices["cam-2"].run_desired()
    page.wait_for(f"[aria-label='Rollout {number}']", "completed")


def test_a_halted_rollout_is_marked_and_shows_the_reason(
    page: Page, devices: dict[str, ScriptedDevice], rollout: Callable[..., int]
) -> None:
    page.open_as_operator()
    number = rollout(2, "cam-2", "cam-1")
    devices["cam-2"].wait_for_desired()
    devices["cam-2"].report(DeploymentState.REFUSED, "golden samples differ")
    page.wait_for(f"[aria-label='Rollout {number}'].is-halted .reason", "cam-2 refused: golden samples differ")
    page.wait_for("#attention-list", "golden samples differ")
    page.wait_for("#news", "halted")
    assert page.text(f"[aria-label='Rollout {number}'] .pending") == "cam-1"


def test_a_rollout_is_paused_and_aborted_from_the_page(page: Page, rollout: Callable[..., int]) -> None:
    page.open_as_operator()
    number = rollout(1, "cam-3")
    page.wait_for(f"[aria-label='Rollout {number}'] .actions", "Pause")
    page.click(f"[data-rollout='{number}'][data-verb='pause']")
    page.wait_for(f"[aria-label='Rollout {number}'] .state", "paused")
    page.click(f"[data-rollout='{number}'][data-verb='abort']")
    page.driver.switch_to.alert.accept()
    page.wait_for(f"[aria-label='Rollout {number}'] .state", "aborted")


def test_a_device_is_explained_in_the_panel(page: Page, devices: dict[str, ScriptedDevice]) -> None:
    devices["cam-1"].report(DeploymentState.FETCHING, "412 of 812 kB", choice=("int8: chosen, 1.9 ms", "fp16: 3.2 ms"))
    devices["cam-1"].measure("latency_p95", "ms", 3.0, 1.0, 2.0)
    page.open_as_operator()
    page.click("#device-table [data-device='cam-1']")
    page.wait_for("#facts .facts", "412 of 812 kB")
    assert page.text("#facts .choice") == "int8: chosen, 1.9 msfp16: 3.2 ms"
    page.wait_for("#curves figcaption", "latency p95")
    curve = page.driver.find_element(By.CSS_SELECTOR, "#curves svg")
    assert curve.get_attribute("aria-label") == "latency_p95: last 2 ms, 1 ms to 3 ms"
    page.driver.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
    assert page.script("return document.getElementById('panel').open") is False


def test_every_workload_of_a_device_is_shown_with_its_version_and_its_failure(
    page: Page, cloud: RunningCloud, rollout: Callable[..., int], tmp_path: Path
) -> None:
    device = enrol_scripted(cloud, "gate-1", tmp_path)
    rollout(1, "gate-1")
    device.run_desired()
    number = rollout(2, "gate-1", workload="reader")
    device.wait_for_desired()
    device.report(DeploymentState.REFUSED, "too little memory beside digits")
    page.open_as_operator()
    row = "#device-table tbody tr:last-child"
    page.wait_for(f"{row} [data-column='state']", "digitsrunning")
    page.wait_for(f"{row} [data-column='state']", "readerrefusedtoo little memory beside digits")
    assert page.text(f"{row} [data-column='running']") == "digitsdigits:1int8 on onnxruntime"
    page.wait_for("#attention-list", "gate-1readerrefusedtoo little memory beside digits")
    page.wait_for(f"[aria-label='Rollout {number}'] .rollout-head", f"rollout {number} of workload reader")
    page.click("#device-table [data-device='gate-1']")
    page.wait_for("#facts", "Workload readerStaterefused")
    page.wait_for("#facts", "Workload digitsStaterunning")


def test_nothing_is_cut_off_on_a_phone(page: Page) -> None:
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.open_as_operator()
    page.wait_for("#device-table", "cam-2")
    assert page.script("return document.documentElement.scrollWidth") == 400
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_needs_no_credential_and_serves_only_its_files(cloud: RunningCloud) -> None:
    anonymous = cloud.anonymous()
    assert anonymous.get("/").status == 200
    assert "default-src 'none'" in anonymous.get("/").headers["Content-Security-Policy"]
    assert anonymous.get("/console/main.js").headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert anonymous.get("/console/..%2Fschema.py").status == 404
    assert anonymous.get("/v1/devices").status == 401
