"""`nnssl_plugin_path`: the folder for nnU-Net's nnUNet_extTrainer variable."""

from __future__ import annotations

from pathlib import Path

from nnssl.cli.common import parser

DESCRIPTION = """Print the folder through which nnU-Net finds nnssl's trainers. Set once, beside nnU-Net's other variables:

  export nnUNet_extTrainer="$(nnssl_plugin_path)" """


def main() -> None:
    parser("nnssl_plugin_path", DESCRIPTION).parse_args()
    print(Path(__file__).resolve().parent.parent / "nnunet_plugin")


if __name__ == "__main__":
    main()
