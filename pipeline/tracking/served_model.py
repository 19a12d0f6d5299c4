"""A run's model as MLflow loads and serves it: this file, its weights, and the files of this package that they need.

MLflow runs this file wherever the model is loaded, also without this repository: then `pipeline` is the copy that lies
beside the model. Importing it pins the kernels of whatever is loaded after it, as everywhere.
"""

import sys
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from safetensors.numpy import load_file

from pipeline.evaluation import predictions
from pipeline.system import kernels


class ServedModel(PythonModel):  # type: ignore[misc] # MLflow has no types
    """Predicts the target from the features, by name, in the table's units."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the weights, from safetensors: nothing is unpickled."""
        config: dict[str, Any] = context.model_config
        self.features, self.target, self.variant = config["features"], config["target"], config["variant"]
        self.tensors = load_file(context.artifacts["weights"])
        if not predictions.is_linear(self.tensors) and "torch" in kernels.LOADED and kernels.KERNELS != "native":
            print(
                "WARNING: torch was loaded before this model, so that its kernels are not pinned: predictions may "
                "differ in their last digits",
                file=sys.stderr,
            )

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """Predict each row.

        Args:
            model_input: (m, …), with a column for each feature; others are ignored.

        Returns:
            y_pred (m, 1), float32, under the target's name.

        Raises:
            MlflowException: a number is missing, or too large for float32, as is a prediction; a server answers 400.
        """
        X = model_input[self.features].to_numpy(np.float64)  # (m, k)
        with np.errstate(over="ignore"):
            wrong = ~np.isfinite(X.astype(np.float32))
        for row, place in np.argwhere(wrong).tolist():
            where = f"row {row + 1}, column {self.features[place]!r}"
            raise MlflowException.invalid_parameter_value(
                f"{where}: got {X[row, place]}, takes a number that float32 can hold"
            )
        y_pred = predictions.predict(self.variant, self.tensors, X)
        for row in np.flatnonzero(~np.isfinite(y_pred)).tolist():
            raise MlflowException.invalid_parameter_value(f"row {row + 1}: its prediction is too large for float32")
        return pd.DataFrame({self.target: y_pred[:, 0]})


set_model(ServedModel())
