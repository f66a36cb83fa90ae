"""Clusters, a forest on two worker processes (joblib) and an incremental classifier."""
import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import SGDClassifier

random = np.random.default_rng(3)
points = random.standard_normal((3000, 8))
labels = (points[:, 0] * points[:, 1] + 0.1 * points[:, 2] > 0).astype(int)
clusters, linear = MiniBatchKMeans(5, random_state=1, n_init=1), SGDClassifier(random_state=1)
for n in range(40):
    clusters.partial_fit(points)
    linear.partial_fit(points, labels, classes=[0, 1])
    forest = RandomForestClassifier(20, max_depth=6, random_state=n, n_jobs=2).fit(points, labels)
    print("step", n, round(clusters.inertia_, 6), round(linear.score(points, labels), 6), round(forest.score(points, labels), 6), flush=True)
    points = points + 0.01 * random.standard_normal(points.shape)
