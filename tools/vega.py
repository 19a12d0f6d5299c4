"""Installs the library that draws DVC's plots, .dvc/tmp/vega.js, so that no page needs the web; `make setup` runs it.

DVC's page (.dvc/plots/page.html, named in .dvc/config) loads it from there. It comes with vl-convert-python, which
carries Vega, Vega-Lite and vega-embed.
"""

import vl_convert

from pipeline.evaluation.plots.look import VEGA_LITE
from pipeline.system import repository
from pipeline.system.files import replacing


def main() -> None:
    """Write the library."""
    with replacing(repository.root() / ".dvc/tmp/vega.js") as temporary:
        script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
        temporary.write_text(script, encoding="utf-8")


if __name__ == "__main__":
    main()
