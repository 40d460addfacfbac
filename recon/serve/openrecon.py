"""The label by which a scanner recognises recon as an OpenRecon application (metadata 1.1.0)."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterable
from typing import Any

from recon import __version__
from recon.serve.parameters import AS_RECIPE, PARAMETERS
from recon.serve.settings import OPENRECON

#: Name of the image's label.
KEY = "com.siemens-healthineers.magneticresonance.openrecon.metadata:1.1.0"


def label(recipes: Iterable[str], port: int = 9002) -> dict[str, Any]:
    """General information, requirements of the reconstruction, and the parameters of the user interface.

    The first recipe is the default. The date is today's, or that of SOURCE_DATE_EPOCH.
    """
    day = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time()))
    names = [name for name in recipes if name != OPENRECON]
    return {
        "general": {
            "name": _en("recon"),
            "version": __version__,
            "vendor": "recon",
            "information": _en("MRI reconstruction: raw data in, images out, every image with its evidence"),
            "id": "recon",
            "regulatory_information": {
                "device_trade_name": "recon",
                "production_identifier": __version__,
                "manufacturer_address": "",
                "made_in": "",
                "manufacture_date": time.strftime("%Y/%m/%d", day),
                "material_number": f"recon_{__version__}",
                "gtin": "",
                "udi": "",
                "safety_advices": "For research. Not a medical device, not for diagnosis.",
                "special_operating_instructions": "Keep the scanner's own reconstruction running in parallel.",
                "additional_relevant_information": "",
            },
        },
        "reconstruction": {
            "transfer_protocol": {"protocol": "ISMRMRD", "version": "1.4.1"},
            "port": port,
            "emitter": "raw",
            "injector": "image",
            "can_process_adjustment_data": False,
            "can_use_gpu": True,
            "min_count_required_gpus": 0,
            "min_required_gpu_memory": 0,
            "min_required_memory": 8192,
            "min_count_required_cpu_cores": 2,
            "content_qualification_type": "RESEARCH",
        },
        "parameters": [
            _choice("config", "Recipe", "How the images are made", [(n, n) for n in names], names[0]),
            *(
                _choice(
                    p.id, p.label, p.information,
                    [(AS_RECIPE, "As the recipe"), *((key, words) for key, (words, _) in p.values.items())], AS_RECIPE,
                )
                for p in PARAMETERS
            ),
        ],
    }  # fmt: skip


def encoded(given: dict[str, Any]) -> str:
    """The label's value: base64 of its JSON."""
    return base64.b64encode(json.dumps(given).encode()).decode()


def _en(words: str) -> dict[str, str]:
    return {"en": words}


def _choice(id_: str, title: str, information: str, values: list[tuple[str, str]], default: str) -> dict[str, Any]:
    return {
        "id": id_,
        "label": _en(title),
        "type": "choice",
        "values": [{"id": value, "name": _en(words)} for value, words in values],
        "default": default,
        "information": _en(information),
    }
