"""A training of XGBoost that MLflow records by itself, as a user writes it; then the model is loaded again.

Usage: MLFLOW_TRACKING_URI=http://... python xgboost_autolog.py
"""

import mlflow
import xgboost as xgb
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

mlflow.xgboost.autolog()

data = load_breast_cancer(as_frame=True)
train_features, test_features, train_labels, test_labels = train_test_split(
    data.data, data.target, test_size=0.25, random_state=42
)
train = xgb.DMatrix(train_features, label=train_labels)
test = xgb.DMatrix(test_features, label=test_labels)

with mlflow.start_run() as run:
    booster = xgb.train(
        params={"objective": "binary:logistic", "eval_metric": ["logloss", "auc"], "max_depth": 3, "eta": 0.2},
        dtrain=train,
        num_boost_round=20,
        evals=[(train, "train"), (test, "test")],
        early_stopping_rounds=10,
        verbose_eval=False,
    )

loaded = mlflow.xgboost.load_model(f"runs:/{run.info.run_id}/model")
assert (loaded.predict(test) == booster.predict(test)).all()
print(f"run {run.info.run_id}")
