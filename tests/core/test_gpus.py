"""What nvidia-smi prints, in the forms of its older and newer drivers."""

import os
from pathlib import Path

import pytest

from nanochat_pl.core.gpus import GpuProcess, NoDriver, links, parse_driver, read_driver
from nanochat_pl.core.memory import available_memory_bytes, usable_cpus

NEWER = """<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
  <timestamp>Mon Jan 1 00:00:00 2026</timestamp>
  <driver_version>550.54.15</driver_version>
  <cuda_version>12.4</cuda_version>
  <attached_gpus>1</attached_gpus>
  <gpu id="00000000:01:00.0">
    <product_name>NVIDIA H100 80GB HBM3</product_name>
    <mig_mode><current_mig>Disabled</current_mig><pending_mig>Disabled</pending_mig></mig_mode>
    <mig_devices>None</mig_devices>
    <gpu_reset_status><reset_required>No</reset_required></gpu_reset_status>
    <clocks_event_reasons>
      <clocks_event_reason_gpu_idle>Not Active</clocks_event_reason_gpu_idle>
      <clocks_event_reason_sw_power_cap>Active</clocks_event_reason_sw_power_cap>
      <clocks_event_reason_sw_thermal_slowdown>Not Active</clocks_event_reason_sw_thermal_slowdown>
    </clocks_event_reasons>
    <fb_memory_usage>
      <total>81559 MiB</total><reserved>550 MiB</reserved><used>1009 MiB</used><free>80000 MiB</free>
    </fb_memory_usage>
    <utilization><gpu_util>97 %</gpu_util></utilization>
    <ecc_errors><volatile>
      <sram_correctable>4</sram_correctable>
      <sram_uncorrectable_parity>1</sram_uncorrectable_parity>
      <sram_uncorrectable_secded>0</sram_uncorrectable_secded>
      <dram_correctable>0</dram_correctable><dram_uncorrectable>2</dram_uncorrectable>
    </volatile></ecc_errors>
    <temperature><gpu_temp>64 C</gpu_temp><gpu_temp_slow_threshold>N/A</gpu_temp_slow_threshold></temperature>
    <gpu_power_readings>
      <average_power_draw>690.10 W</average_power_draw><instant_power_draw>699.50 W</instant_power_draw>
      <current_power_limit>700.00 W</current_power_limit>
    </gpu_power_readings>
    <module_power_readings><power_draw>N/A</power_draw></module_power_readings>
    <clocks><sm_clock>1410 MHz</sm_clock></clocks>
    <max_clocks><sm_clock>1980 MHz</sm_clock></max_clocks>
    <processes>
      <process_info><pid>4242</pid><process_name>python</process_name><used_memory>900 MiB</used_memory></process_info>
      <process_info><pid>77</pid><process_name>[Not Found]</process_name><used_memory>N/A</used_memory></process_info>
    </processes>
  </gpu>
</nvidia_smi_log>
"""
OLDER = """<?xml version="1.0" ?>
<nvidia_smi_log>
  <driver_version>515.105.01</driver_version><cuda_version>11.7</cuda_version>
  <gpu id="00000000:00:1E.0">
    <product_name>Tesla T4</product_name>
    <clocks_throttle_reasons>
      <clocks_throttle_reason_hw_thermal_slowdown>Active</clocks_throttle_reason_hw_thermal_slowdown>
    </clocks_throttle_reasons>
    <power_readings>
      <power_draw>26.78 W</power_draw><enforced_power_limit>70.00 W</enforced_power_limit>
    </power_readings>
    <retired_pages><pending_retirement>Yes</pending_retirement></retired_pages>
  </gpu>
</nvidia_smi_log>
"""
TOPOLOGY = """\t\x1b[4mGPU0\tGPU1\tGPU2\tCPU Affinity\tNUMA Affinity\x1b[0m
GPU0\t X \tNV18\tSYS\t0-23\t0
GPU1\tNV18\t X \tSYS\t0-23\t0
GPU2\tSYS\tSYS\t X \t24-47\t1

Legend:
  X    = Self
"""


def test_a_newer_drivers_words() -> None:
    driver = parse_driver(NEWER)
    assert (driver.version, driver.cuda) == ("550.54.15", "12.4")
    (gpu,) = driver.gpus
    assert gpu.name == "NVIDIA H100 80GB HBM3" and gpu.bus_id == "00000000:01:00.0" and not gpu.mig
    assert (gpu.memory_total_bytes, gpu.memory_free_bytes) == (81559 * 2**20, 80000 * 2**20)
    assert (gpu.temperature_celsius, gpu.slowdown_celsius) == (64.0, None)
    assert (gpu.power_watts, gpu.power_limit_watts) == (699.5, 700.0)
    assert (gpu.sm_clock_mhz, gpu.max_sm_clock_mhz, gpu.utilization) == (1410.0, 1980.0, 0.97)
    assert gpu.slowed_by == ("power limit",) and gpu.uncorrected_errors == 3 and not gpu.needs_reset
    assert gpu.processes == (GpuProcess(4242, "python", 900 * 2**20), GpuProcess(77, "[Not Found]", None))


def test_an_older_drivers_words() -> None:
    (gpu,) = parse_driver(OLDER).gpus
    assert gpu.slowed_by == ("heat (hardware)",) and gpu.needs_reset
    assert (gpu.power_watts, gpu.power_limit_watts) == (26.78, 70.0)
    assert gpu.memory_total_bytes is None and gpu.uncorrected_errors is None and gpu.processes == ()


@pytest.mark.parametrize("text", ["", "No devices were found", "<html></html>", NEWER[: len(NEWER) // 2]])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_driver(text)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, "no nvidia-smi"),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "version mismatch"),
        ("echo nonsense", "cannot be read"),
    ],
)
def test_why_there_is_no_answer(script: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoDriver, match=said):
        read_driver()


def test_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "said.xml").write_text(NEWER)
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nexec cat {tmp_path / 'said.xml'}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert len(read_driver().gpus) == 1


def test_links_between_pairs() -> None:
    assert links(TOPOLOGY.replace("\x1b[4m", "").replace("\x1b[0m", "")) == {"NV18": 1, "SYS": 2}
    assert links("\tGPU0\tCPU Affinity\nGPU0\t X \t0-23\n") == {}


def test_main_memory_and_cpus() -> None:
    available = available_memory_bytes()
    assert available is None or available > 2**20
    assert usable_cpus() >= 1
