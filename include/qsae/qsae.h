/* SPDX-License-Identifier: BSD-2-Clause */
/* Umbrella header: everything libqsae offers. */
#ifndef QSAE_QSAE_H
#define QSAE_QSAE_H

#include <qsae/version.h>
#include <qsae/common.h>
#include <qsae/context.h>
#include <qsae/tensor.h>
#include <qsae/text.h>
#include <qsae/model.h>
#include <qsae/quantizer.h>
#include <qsae/sae.h>
#include <qsae/metrics.h>
#include <qsae/audit.h>
#include <qsae/predictor.h>
#include <qsae/probe.h>

#endif
