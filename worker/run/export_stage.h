#pragma once

#include "worker/model/model.h"
#include "worker/run/job_plan.h"
#include "worker/run/rank_session.h"
#include "worker/weights/export.h"

namespace emoe::worker {

// The last stage of the tasks that leave a model, on rank 0. JobErrors as export_error_code() says.

// What the export's dtype will do to the base is said before hours of training, not after.
void tell_of_rounding(const Model& model, const ExportPlan& wanted, RankSession& session);

// Writes, checks and publishes export/, and reports it. Nothing where nothing is wanted.
void publish_export(Model& model, const ExportPlan& wanted, const Reordering& reordering,
                    RankSession& session);

}  // namespace emoe::worker
