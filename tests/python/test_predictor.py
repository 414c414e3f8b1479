# SPDX-License-Identifier: BSD-2-Clause
import json
import os

import numpy as np

from support import MODEL, SAE, TEXT, Case

import qsae


class Predictor(Case):
    def test_fit_of_a_run(self):
        """The fit of one run, applied to a pass of the model alone."""
        common = {"profile": "paper", "tokens": 1500, "context": 128, "threads": 2}
        path = os.path.join(self.folder(), "result.json")
        result = qsae.evaluate(MODEL, [SAE], TEXT, ["rtn:bits=3"], **common)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(result, file)
        survival = result["conditions"][0]["saes"][0]["survival"]
        common.pop("threads")
        with qsae.Context(2) as ctx, \
                qsae.Audit(ctx, MODEL, TEXT, [SAE], reference_only=True, top_contexts=1,
                           **common) as audit:
            audit.run()
            self.assertEqual(audit.result()["conditions"], [])
            features = audit.features()
        rate, mean, top = (np.array([f[key] for f in features])
                           for key in ("density", "mean", "max"))
        with qsae.Predictor(path) as predictor:
            probability, rank = predictor(rate, mean, top)
            info = predictor.info
        self.assertEqual(info["condition"], result["conditions"][0]["label"])
        self.assertEqual(info["hash"], result["reference"]["saes"][0]["hash"])
        active = rate > 0.001
        self.assertEqual(active.sum(), survival["active"])
        np.testing.assert_array_equal(np.isnan(probability), ~active)
        np.testing.assert_array_equal(np.sort(rank[active]), np.arange(1, active.sum() + 1))
        x = np.stack([-np.log(rate[active]), np.log(mean[active]), np.log(top[active])], 1)
        fit = survival["predictor"]["fit"]
        z = (x - fit["means"]) / fit["sds"]
        expected = 1 / (1 + np.exp(-(z @ fit["coefficients"] + fit["intercept"])))
        np.testing.assert_allclose(probability[active], expected, rtol=1e-12)
        # Of an optimum with an intercept: probabilities add up to the number that survived.
        self.assertAlmostEqual(expected.sum(), survival["survived"], 4)

    def test_refused(self):
        path = os.path.join(self.folder(), "result.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"format": "qsae-result", "conditions": []}, file)
        for condition, message in ((None, "no survival predictor"), ("nf4", "no condition begins")):
            with self.assertRaisesRegex(qsae.Error, message):
                qsae.Predictor(path, condition)
        with self.assertRaisesRegex(qsae.Error, "nowhere"):
            qsae.Predictor("/nowhere.json")
