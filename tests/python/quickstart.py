"""A first run as a user writes it: trains a classifier of irises, keeps it with its parameters, loads it and predicts.

Usage: MLFLOW_TRACKING_URI=http://... python quickstart.py
"""

import mlflow
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split

features, species = load_iris(return_X_y=True, as_frame=True)
train_features, test_features, train_species, test_species = train_test_split(
    features, species, test_size=0.2, random_state=7
)
params = {"solver": "lbfgs", "max_iter": 1000, "random_state": 8888}
model = LogisticRegression(**params).fit(train_features, train_species)
accuracy = accuracy_score(test_species, model.predict(test_features))

mlflow.set_experiment("Quickstart")
with mlflow.start_run():
    mlflow.log_params(params)
    mlflow.log_metric("accuracy", accuracy)
    mlflow.set_tag("Training Info", "Logistic regression of irises")
    info = mlflow.sklearn.log_model(
        sk_model=model,
        name="iris_model",
        signature=infer_signature(train_features, model.predict(train_features)),
        input_example=train_features.head(3),
        registered_model_name="iris-quickstart",
    )

for uri in [info.model_uri, "models:/iris-quickstart/1"]:
    loaded = mlflow.pyfunc.load_model(uri)
    predicted = loaded.predict(test_features)
    assert (predicted == model.predict(test_features)).all()

result = test_features.assign(actual=test_species, predicted=predicted)
print(result.head())
print(f"accuracy {accuracy:.3f}")
