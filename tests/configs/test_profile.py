from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from configs.catalog import load_catalog
from configs.document import ConfigError
from configs.profile import PROFILES, Ports, Profile, ServedVariant, load_profile, profile_names
from configs.routing import LEVELS

CATALOG = load_catalog()
FIELDS: dict[str, Any] = {
    "name": "p",
    "description": "d",
    "variants": {"qwen3-4b": {}, "qwen3-8b": {}},
    "levels": dict.fromkeys(LEVELS, "qwen3-4b"),
}


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_loads_under_its_own_name_and_fills_its_roles_by_capability(name: str) -> None:
    profile = load_profile(name, CATALOG)
    assert profile.name == name
    assert not profile.limits.image_urls, "who wants that says so"
    assert set(profile.levels) == set(LEVELS)
    for role, capability in (("vision", "vision"), ("translation", "translation")):
        variant = getattr(profile, role)
        assert variant is None or capability in CATALOG.variants[variant].capabilities
    assert profile.code is None or "code" in CATALOG.variants[profile.code].capabilities
    from_hub = any(CATALOG.variants[variant].source.uri.startswith("hf:") for variant in profile.variants)
    assert profile.needs_network == from_hub
    for variant, served in profile.variants.items():
        assert served.pool_tokens >= served.context, f"{variant}: a request as long as its context never fits"


def test_profiles_are_the_files_of_the_folder() -> None:
    assert (
        set(profile_names()) == {path.stem for path in PROFILES.iterdir()} >= {"cpu", "rtx5090", "macbook-m3-16gb"}
    )
    with pytest.raises(ConfigError, match=r"'pdp11'.*cpu.*rtx5090"):
        load_profile("pdp11", CATALOG)


def refused(tmp_path: Path, **fields: Any) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**FIELDS, **fields}))
    with pytest.raises(ConfigError) as raised:
        load_profile(str(path), CATALOG)
    return str(raised.value)


def test_a_role_must_name_a_variant_that_is_served(tmp_path: Path) -> None:
    assert "code names 'qwen3-14b'" in refused(tmp_path, code="qwen3-14b")
    assert "levels.complex names 'qwen3-14b'" in refused(
        tmp_path, levels={**FIELDS["levels"], "complex": "qwen3-14b"}
    )


def test_a_profile_must_agree_with_the_catalog(tmp_path: Path) -> None:
    told = refused(tmp_path, variants={"qwen3-4b": {"context": 131_073}})
    assert "qwen3-4b: a context of 131073 tokens is beyond the model's 131072" in told
    told = refused(tmp_path, variants={**FIELDS["variants"], "qwen3-vl": {}})
    assert "qwen3-vl runs on cuda, and the machine is of kind cpu" in told
    assert "'qwen9'" in refused(tmp_path, variants={**FIELDS["variants"], "qwen9": {}})
    assert "no variant for moderate, complex" in refused(
        tmp_path, levels={"trivial": "qwen3-4b", "simple": "qwen3-4b"}
    )
    assert "'word2vec'" in refused(tmp_path, embedder="word2vec")
    assert "levels.hard" in refused(tmp_path, levels={**FIELDS["levels"], "hard": "qwen3-4b"})


def test_a_profile_of_ones_own_is_read_from_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**FIELDS, "variants": {"qwen3-4b": {"context": 131_072}}}))
    assert load_profile(str(path), CATALOG).variants["qwen3-4b"].context == 131_072


def test_shifted_ports_move_together_and_stay_ports() -> None:
    ports = Ports()
    assert len(set(ports.model_dump().values())) == len(ports.model_dump()), "no two parts share a port"
    moved = ports.shifted(200).model_dump()
    assert moved == {name: port + 200 for name, port in ports.model_dump().items()}
    assert not set(moved.values()) & set(ports.model_dump().values())
    with pytest.raises(ValidationError):
        ports.shifted(60_000)


def test_a_pool_holds_one_whole_context_and_half_of_all() -> None:
    assert ServedVariant(context=1000, parallel=8).pool_tokens == 4000
    assert ServedVariant(context=1000, parallel=1).pool_tokens == 1000
    assert ServedVariant(context=1000, parallel=8, kv_tokens=2000).pool_tokens == 2000


def test_roles_list_what_is_named() -> None:
    profile = Profile.model_validate({**FIELDS, "code": "qwen3-8b"})
    assert profile.roles == {**{f"levels.{level}": "qwen3-4b" for level in LEVELS}, "code": "qwen3-8b"}
